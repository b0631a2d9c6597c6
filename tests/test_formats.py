"""`surgery.formats` against real documents, both ways: what they hold is described, and the reverse."""

import copy
import json
import struct
import tomllib
from dataclasses import replace
from pathlib import Path

import made_up_findings
import planted_model
import pytest
import torch
from PIL import Image

import surgery
from surgery import formats
from surgery.auditing.report.document import audit_document
from surgery.auditing.settings import AuditSettings
from surgery.errors import UsageError
from surgery.formats import FORMATS, RECORD, FormatField
from surgery.hardening.settings import HardenSettings
from surgery.localization.calibration import calibrate
from surgery.localization.calibration_file import write_calibration
from surgery.localization.scan import scan
from surgery.localization.settings import LocalizeSettings
from surgery.measures.pictures import picture_size
from surgery.model.pipeline import load_pipeline
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

CAPTIONS = planted_model.ordinary_captions(12)
CORPUS = [planted_model.caption("v"), planted_model.caption("w"), CAPTIONS[0]]
SEARCH = LocalizeSettings(seeds=3, confirm_seeds=2, seed=1)
AUDIT = AuditSettings(
    seeds=3, steps=2, guidance=1.0, ordinary=1, ordinary_seeds=2, timesteps=1, attack=("embedding",),
    curve=(0, 1), restarts=1, selection_seeds=1, attack_guidance=(1.0,), attack_batch=1, alpha=0.4,
    controls=2, more_seeds=0, similarity="edges",
)  # fmt: skip
HARDEN = HardenSettings(
    rounds=1, first_gate=1, embedding_steps=1, output_steps=1, attack_batch=1, further_steps=1, batch=1,
    blinding_states=2, surrogates=1,
    ordinary=1, neighbors=1, drawing_steps=1, gate_embedding=1, gate_output=1, gate_controls=1, gate_seeds=1,
    gate_guidance=(1.0,), rungs=("zeroed", "hardened"), max_change=1e-9,
)  # fmt: skip
NOT_HERE = ("fell_back", "evaluations_saved", "image_unlike")
# what no document here has: it takes a contradiction in a search, an attribution, a wrong image, or weights
# of one's own
RARE = {f"{where}{name}" for where in ("", "prompts[].") for name in NOT_HERE} | {
    f"ordinary.quality.{name}" for name in ("clip_score.*", "distances.*", "distances.*.*")
}


class Described:
    """Holds documents against the fields that describe them; `seen` collects the fields that occurred."""

    def __init__(self, described: tuple[FormatField, ...]) -> None:
        self.fields = {one.path: one for one in described}
        assert len(self.fields) == len(described), "a path stands twice"
        self.seen: set[str] = set()

    def check(self, value, path: str = "") -> None:
        known = self.fields.get(path)
        if known is not None:
            self.seen.add(path)
            assert _has_type(value, known.type), f"{path} is {value!r}, not {known.type}"
            if known.type == "any":
                return
        elif not any(other.startswith((f"{path}.", f"{path}[]")) for other in self.fields) and path:
            raise AssertionError(f"{path} is not described in surgery/formats.py")
        if isinstance(value, dict):
            for name, inner in value.items():
                exact, star = (f"{path}.{last}".lstrip(".") for last in (name, "*"))
                self.check(inner, exact if self._leads_on(exact) or not self._leads_on(star) else star)
        elif isinstance(value, list) and self._leads_on(f"{path}[]"):
            for inner in value:
                self.check(inner, f"{path}[]")

    def _leads_on(self, path: str) -> bool:
        return path in self.fields or any(
            other.startswith((f"{path}.", f"{path}[]")) for other in self.fields
        )

    def assert_complete(self) -> None:
        unseen = set(self.fields) - self.seen - RARE
        assert not unseen, f"described in surgery/formats.py, but in no document: {sorted(unseen)}"
        always = {path for path in RARE & set(self.fields) if not self.fields[path].only}
        assert not always, f"not marked as optional: {sorted(always)}"


def _has_type(value, kind: str) -> bool:
    if kind.endswith(" or null"):
        return value is None or _has_type(value, kind.removesuffix(" or null"))
    if kind.startswith("list"):
        inner = kind.removeprefix("list").removeprefix(" of ")
        return isinstance(value, list) and (not inner or all(_has_type(one, inner) for one in value))
    if kind in ("integer", "number"):
        allowed = int if kind == "integer" else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return kind == "any" or isinstance(value, {"text": str, "boolean": bool, "object": dict}[kind])


def held_against(format_, *documents) -> Described:
    described = Described(format_.fields)
    for document in documents:
        assert not format_.tag or document["format"] == format_.tag
        described.check(document)
    return described


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose by several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny pipeline with memories built by hand, from a folder, live."""
    folder = tmp_path_factory.mktemp("formats") / "model"
    planted_model.planted_pipeline(folder.with_name("tokenizer")).save_pretrained(folder)
    return load_pipeline(folder, device="cpu")


@pytest.fixture(scope="module")
def calibration(model):
    return calibrate(model, CAPTIONS, SEARCH, score_prompts=len(CAPTIONS))


@pytest.fixture(scope="module")
def localized(model, calibration, tmp_path_factory):
    """(the document of neurons.json, the lines of the journal)"""
    folder = tmp_path_factory.mktemp("localized")
    alike = "v w x"  # by nature: whatever word is dropped, the others draw one picture
    found = surgery.localize(
        model,
        [*CORPUS, alike],
        settings=replace(SEARCH, joint=True, joint_seeds=2, joint_steps=1),
        calibration=calibration,
        journal=folder / "journal",
    )
    found.write(folder / "neurons.json")
    lines = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
    return json.loads((folder / "neurons.json").read_text()), lines


def test_neurons_json_is_described(localized):
    described = held_against(formats.NEURONS, localized[0])
    by_hand = {"format": formats.NEURONS.tag, "layers": {"mid_block.attn2.to_v": [3]}}
    described.check(by_hand)
    described.assert_complete()


def test_the_journal_is_described(model, calibration, localized, tmp_path):
    _, (header, *records) = localized
    black = torch.zeros(3, *picture_size(model), dtype=torch.uint8)
    surgery.localize(
        model, CORPUS[2:], settings=SEARCH, calibration=calibration, images={CORPUS[2]: black},
        journal=tmp_path / "journal",
    )  # fmt: skip
    with_images = json.loads((tmp_path / "journal").read_text().splitlines()[0])
    held_against(formats.JOURNAL, header, with_images).assert_complete()
    # what is known when the whole corpus has been seen is not in the journal
    later = ("final", "joint", "second_look.corrected")
    described = Described(tuple(one for one in RECORD if not one.path.startswith(later)))
    for record in records:
        described.check(record)
    described.assert_complete()


def test_the_calibration_is_described(model, calibration, tmp_path):
    write_calibration(calibration, tmp_path / "calibration.safetensors")
    content = (tmp_path / "calibration.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    held_against(formats.CALIBRATION, json.loads(header.pop("__metadata__")["surgery"])).assert_complete()
    kinds = {name.partition("/")[0] + "/*" for name in header}
    assert kinds == {tensor.path for tensor in formats.CALIBRATION.tensors}
    assert all(tensor["dtype"] == "F32" and len(tensor["shape"]) == 1 for tensor in header.values())


def test_the_ranking_and_its_journal_are_described(model, calibration, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in (1, 2):
        Image.linear_gradient("L").save(images / f"{number}.png")
    records = scan(
        model, CORPUS, settings=SEARCH, calibration=calibration, images=images, journal=tmp_path / "journal"
    ).records
    held_against(formats.SCAN, *(record.as_json() for record in records)).assert_complete()
    header, *lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    held_against(formats.SCAN_JOURNAL, header).assert_complete()
    held_against(formats.SCAN, *lines).assert_complete()


@pytest.fixture(scope="module")
def hardened(model, tmp_path_factory):
    """An edit of the tiny pipeline, made by next to no training."""
    layer, row = planted_model.PLANTED["v"][0]
    return surgery.harden(
        model.source, CORPUS[:1], tmp_path_factory.mktemp("hardened") / "edit", neurons={layer: [row]},
        settings=HARDEN, device="cpu", keep_going=True,
    )  # fmt: skip


def test_the_manifest_is_described(model, hardened, localized, tmp_path):
    source = Path(model.source)
    (source / "unet" / "model.onnx").write_bytes(b"x")  # left out, with its reason
    (source / "sample.png").write_bytes(b"x")  # left out, only counted
    rows = dict([planted_model.PLANTED["v"][0]])
    result = surgery.patch(source, {layer: [row] for layer, row in rows.items()}, tmp_path / "out")
    manifest = json.loads(result.manifest_path.read_text())
    edited = surgery.patch(source, hardened.edit, tmp_path / "hardened")
    other = json.loads(edited.manifest_path.read_text())
    weights = next(entry for entry in manifest["files"] if entry["role"] == "denoiser weights")
    audit = {
        "format": "surgery.audit/2", "verdict": "removed", "phrase": "removed", "reason": "",
        "private": False, "counts": {"removed": 1}, "complete": True, "attacks": {"embedding": {"effort": 1}},
        "prompts": [{"id": "p0123456789ab", "verdict": "removed", "phrase": "removed"}],
        "models": {"patched": {"sha256": {Path(weights["path"]).name: weights["sha256"]}}},
    }  # fmt: skip
    audited = audit_document(made_up_findings.findings({"embedding": [0.02, 0.9]}, AUDIT), False)
    audit |= {name: audited[name] for name in ("settings", "similarity", "versions")}
    guided = {"settings": {**localized[0]["settings"], "guidance": 3.0}}
    layers = {"layers": {layer: [row] for layer, row in rows.items()}}
    (tmp_path / "neurons.json").write_text(json.dumps(localized[0] | guided | layers))
    recorded = surgery.record_audit(tmp_path / "out", audit, neurons=tmp_path / "neurons.json")
    held_against(formats.MANIFEST, manifest, other, recorded).assert_complete()


def test_edits_and_their_records_are_described(hardened, model, tmp_path):
    edit = json.loads((hardened.edit / "edit.json").read_text())
    held_against(formats.EDIT, edit).assert_complete()
    record = json.loads((hardened.edit / "hardening.json").read_text())
    assert record == json.loads(json.dumps(hardened.document))
    held_against(formats.HARDENING, record).assert_complete()
    state = tmp_path / ".edit.hardening"
    with pytest.raises(UsageError):
        # bad enough to end after the state was opened
        surgery.harden(
            model.source, CORPUS[:1], tmp_path / "edit", neurons={planted_model.PLANTED["v"][0][0]: [0]},
            settings=replace(HARDEN, rungs=("hardened",), optimizer="adamw8bit"), device="cpu",
        )  # fmt: skip
    header = json.loads((state / "header.json").read_text())
    held_against(formats.HARDENING_STATE, header).assert_complete()


def test_the_audit_and_its_state_are_described(model, tmp_path):
    pipeline, edited = model.pipeline, copy.copy(model.pipeline)
    edited.unet = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        for layer, row in planted_model.PLANTED["v"]:
            edited.unet.get_submodule(layer).weight[row] = 0
    edited.save_pretrained(tmp_path / "edited")
    ordinary = tmp_path / "ordinary.txt"
    ordinary.write_text("\n".join(CAPTIONS[6:]))

    def audit(output, **options):
        return surgery.audit(
            model.source, tmp_path / "edited", [CORPUS[0], CORPUS[2]],
            ordinary_file=ordinary, output=tmp_path / output, settings=AUDIT, device="cpu", **options,
        )  # fmt: skip

    audit("whole", include_private=True)
    audit("stopped", max_forwards=0)
    documents = [json.loads((tmp_path / name / "audit.json").read_text()) for name in ("whole", "stopped")]
    settings = replace(AUDIT, attack=("embedding", "relearn", "graft"), canaries=3)
    attacks = {"embedding": [0.02, 0.9], "relearn": [0.02, 0.9], "graft": [0.8, 0.8]}
    documents.append(
        audit_document(made_up_findings.findings(attacks, settings, twin=True), include_private=False)
    )
    held_against(formats.AUDIT, *documents).assert_complete()
    header = json.loads((tmp_path / "stopped" / "state" / "header.json").read_text())
    held_against(formats.AUDIT_STATE, header).assert_complete()


def test_recipes_are_described():
    for path in sorted((Path(__file__).parent.parent / "recipes").glob("*.toml")):
        document = tomllib.loads(path.read_text())
        if document.get("audit") is False:
            del document["audit"]
        held_against(formats.RECIPE, document)


def test_the_state_of_an_application_is_described(tmp_path):
    """Of neurons that are given: no model is run."""
    memory = read_ground_truth()[0]
    neurons = {"format": formats.NEURONS.tag, "layers": memory.neurons.as_json()}
    (tmp_path / "neurons.json").write_text(json.dumps(neurons))
    (tmp_path / "recipe.toml").write_text(
        f'format = "{formats.RECIPE.tag}"\naudit = false\n[model]\nsource = "{PLANTED_FOLDER.resolve()}"\n'
        '[localize]\nneurons = "neurons.json"\n'
    )
    surgery.apply_recipe(tmp_path / "recipe.toml", tmp_path / "out")
    state = json.loads((tmp_path / "out.evidence" / "state.json").read_text())
    held_against(formats.APPLY_STATE, state).assert_complete()


def test_the_demo_is_described(tmp_path, monkeypatch):
    """A demo in which nothing is searched and nothing drawn: its document is real, its numbers are not."""
    from surgery.localization.records import LOCALIZED, Localization, PromptRecord
    from surgery.testbed import demo

    everything = surgery.NeuronSet().union(*(memory.neurons for memory in read_ground_truth()))
    blank = torch.zeros(21, 1, 3, 64, 64, dtype=torch.uint8)
    records = [PromptRecord(memory.caption, LOCALIZED, 0.9) for memory in read_ground_truth()]
    monkeypatch.setattr(demo, "localize", lambda *_, **__: Localization(everything, records, {}))
    monkeypatch.setattr(demo, "generate", lambda *_, **__: blank)
    monkeypatch.setattr(demo, "ordinary_change", lambda *_, **__: type("Change", (), {"total": 0.0}))
    demo.run_demo(tmp_path / "demo", seeds=1, device="cpu", quiet=True)
    document = json.loads((tmp_path / "demo" / "demo.json").read_text())
    held_against(formats.DEMO, document).assert_complete()


def test_the_testbed_is_described():
    held_against(formats.PLANTED, json.loads((PLANTED_FOLDER / "planted.json").read_text())).assert_complete()


def test_types_are_those_that_are_defined():
    for one in FORMATS:
        for described in one.fields:
            kind = described.type.removesuffix(" or null").removeprefix("list").removeprefix(" of ")
            assert kind in (*formats.TYPES, ""), described


def test_a_field_that_nobody_described_is_noticed(localized):
    document = copy.deepcopy(localized[0])
    document["prompts"][0]["surprise"] = 1
    with pytest.raises(AssertionError, match="surprise is not described"):
        held_against(formats.NEURONS, document)
    document["prompts"][0] = {**localized[0]["prompts"][0], "k": "three"}
    with pytest.raises(AssertionError, match="is 'three', not integer"):
        held_against(formats.NEURONS, document)


def test_tags_are_those_that_the_code_writes():
    from surgery import neurons
    from surgery.applying import ledger, recipe
    from surgery.auditing import store
    from surgery.auditing.report import document
    from surgery.checkpoint.edit import edit_file, manifest
    from surgery.hardening import harden, state
    from surgery.localization import calibration_file, journal
    from surgery.localization.discovery import ranking

    modules = (
        neurons, recipe, ledger, store, document, manifest, calibration_file, edit_file, harden, state,
    )  # fmt: skip
    journals = {journal.OF_LOCALIZE.tag, ranking.OF_SCAN.tag}
    written = {module.FORMAT for module in modules} | journals | {"surgery.demo/1", "surgery.planted/1"}
    assert {one.tag for one in FORMATS} == written | {""}
    for one in FORMATS:
        assert one.public.startswith(("Yes", "No")), one.name
