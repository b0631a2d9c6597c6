"""What is recorded for publishing, what is refused, and that nothing private is ever in a published file."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
from conftest import DENOISER, audit_of, manifest_of

import surgery
from surgery.errors import GateError, UsageError
from surgery.formats import MANIFEST
from surgery.publish.private import private_matter
from surgery.publish.schema import strange_fields
from surgery.publish.staged import hashed
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER


def test_the_manifest_gets_one_section_and_nothing_else_in_it_changes(patched, bare):
    before = manifest_of(patched)
    audit = audit_of(bare, "hidden, not removed")
    returned = surgery.record_audit(bare, audit)
    manifest = manifest_of(bare)
    assert manifest == returned
    section = manifest.pop("published")
    assert manifest == before
    assert section["audit"]["verdict"] == "hidden, not removed"
    assert section["audit"]["counts"] == audit["counts"]
    assert section["audit"]["attacks"] == audit["attacks"]
    assert section["audit"]["bound"] is True and section["gate"] == {"passed": False, "accepted_risk": None}
    assert [prompt["id"] for prompt in section["prompts"]] == [prompt["id"] for prompt in audit["prompts"]]
    assert {entry["path"] for entry in section["files"]} == {entry["path"] for entry in manifest["files"]}
    assert not list(strange_fields(returned, MANIFEST.fields))


def test_the_same_audit_gives_the_same_bytes(bare):
    for _ in range(2):
        surgery.record_audit(bare, audit_of(bare))
        surgery.write_card(bare, source=PLANTED_FOLDER)
        written = {path: path.read_bytes() for path in (bare / "README.md", bare / "surgery-manifest.json")}
    surgery.record_audit(bare, audit_of(bare))
    surgery.write_card(bare, source=PLANTED_FOLDER)
    assert written == {path: path.read_bytes() for path in written}


def test_an_audit_file_is_read_and_its_hash_recorded(bare, tmp_path):
    import hashlib

    path = tmp_path / "audit.json"
    path.write_text(json.dumps(audit_of(bare)))
    manifest = surgery.record_audit(bare, path)
    recorded = manifest["published"]["audit"]["sha256"]
    assert recorded == hashlib.sha256(path.read_bytes()).hexdigest()
    assert surgery.verify(bare, audit=path).ok
    path.write_text(json.dumps(audit_of(bare, "not found")))
    assert not surgery.verify(bare, audit=path).ok


def neurons_json(memories, **changes) -> dict:
    """A `neurons.json` as far as publishing reads it, with captions in odd places."""
    found = memories[0].neurons.union(memories[1].neurons)
    return {
        "format": "surgery.neurons/1",
        "layers": found.as_json(),
        "settings": {"criterion": "seeds-diverge", "seeds": 10, "seed": 0, "guidance": None,
                     "strategy": memories[0].caption, "note": memories[0].caption},
        "thresholds": {"gate": 0.15, "selection": 0.15, memories[0].caption: 1},
        "calibration": {"prompts": 392, "source": memories[1].caption},
        "outcomes": {"localized": 2, "not_memorized": 0, "unresolved": 0},
        "computes_in": "float32",
        "versions": {"torch": "2.9.0+cpu", "note": memories[1].caption},
        "prompts": [{"prompt": memory.caption} for memory in memories[:2]],
        **changes,
    }  # fmt: skip


def test_method_seeds_thresholds_and_versions_are_recorded_and_no_prompt(bare, memories, tmp_path):
    path = tmp_path / "neurons.json"
    path.write_text(json.dumps(neurons_json(memories)))
    audit = audit_of(
        bare,
        settings={"seeds": 10, "alpha": 0.05, "correction": "holm", "sscd": memories[0].caption},
        similarity={"name": "edges", "threshold": 0.5, "source": memories[0].caption},
        versions={"torch": "2.9.0"},
    )
    method = surgery.record_audit(bare, audit, neurons=path)["published"]["method"]
    assert method == {
        "localization": {
            "settings": {"criterion": "seeds-diverge", "seeds": 10, "seed": 0},
            "thresholds": {"gate": 0.15, "selection": 0.15},
            "calibration_prompts": 392,
            "outcomes": {"localized": 2, "not_memorized": 0, "unresolved": 0},
            "computes_in": "float32",
            "versions": {"torch": "2.9.0+cpu"},
        },
        "audit": {
            "settings": {"seeds": 10, "alpha": 0.05, "correction": "holm"},
            "similarity": "edges",
            "threshold": 0.5,
            "versions": {"torch": "2.9.0"},
        },
    }
    card = surgery.write_card(bare, source=PLANTED_FOLDER).read_text()
    assert "by the criterion `seeds-diverge` on 10 seeds" in card
    assert surgery.verify(bare, source=PLANTED_FOLDER, audit=audit).ok
    # an audit with the same verdict, made otherwise, is another audit
    other = {**audit, "settings": {**audit["settings"], "seeds": 2}}
    assert not surgery.verify(bare, audit=other).ok
    published = b"".join(file.read_bytes() for file in bare.glob("*.*"))
    assert not any(memory.caption.encode() in published for memory in memories)


def test_neurons_of_another_patch_are_refused(bare, memories, tmp_path):
    path = tmp_path / "neurons.json"
    path.write_text(json.dumps(neurons_json(memories, layers=memories[2].neurons.as_json())))
    with pytest.raises(GateError, match="other neurons than the manifest"):
        surgery.record_audit(bare, None, neurons=path)
    assert "published" not in manifest_of(bare)


REFUSED = {
    "private": ({"private": True}, "holds private matter"),
    "silent about it": ({"private": None}, "holds private matter"),
    "quoting prompts": (
        {"prompts": [{"id": "p" + "0" * 12, "verdict": "removed", "prompt": "a caption"}]},
        "quotes prompts",
    ),
    "with captions for ids": ({"prompts": [{"id": "a caption", "verdict": "removed"}]}, "no salted hash"),
    "of other weights": ({"models": {"patched": {"sha256": {"x.safetensors": "0" * 64}}}}, "other weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_audit_that_must_not_be_published_is_refused_and_nothing_written(bare, name):
    changes, words = REFUSED[name]
    before = (bare / "surgery-manifest.json").read_bytes()
    with pytest.raises(GateError, match=words):
        surgery.record_audit(bare, audit_of(bare, **changes))
    assert (bare / "surgery-manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [{"verdict": "gone"}, {"counts": {"gone": 1}}, {"counts": None}, {"format": "surgery.manifest/2"},
     {"phrase": ["removed"]}, {"reason": "x" * 5000}],
    ids=str,
)  # fmt: skip
def test_what_is_no_audit_is_refused(bare, changes):
    with pytest.raises(UsageError):
        surgery.record_audit(bare, audit_of(bare, **changes))


def test_only_numbers_and_short_words_of_the_attack_are_kept(bare):
    attack = {"prompt": "a caption", "curve": list(range(100)), "score": 0.5, "note": "x" * 5000}
    manifest = surgery.record_audit(bare, audit_of(bare, attacks={"embedding": attack}))
    assert manifest["published"]["audit"]["attacks"] == {"embedding": {"score": 0.5}}


def test_a_folder_with_a_strange_file_is_not_vouched_for(bare):
    shutil.copy(PLANTED_FOLDER / DENOISER, bare / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(GateError, match="none of the files that patch wrote"):
        surgery.record_audit(bare, audit_of(bare))


def test_a_folder_whose_files_changed_since_patch_is_not_vouched_for(bare):
    audit = audit_of(bare)
    (bare / "unet" / "config.json").write_text("{}")
    with pytest.raises(GateError, match="is not the file that patch wrote"):
        surgery.record_audit(bare, audit)


def test_what_a_killed_run_left_behind_is_cleared_away(bare):
    (bare / "surgery-manifest.json.4711.partial").write_text("half")
    surgery.record_audit(bare, audit_of(bare))
    assert not (bare / "surgery-manifest.json.4711.partial").exists()


def test_no_prompt_and_no_image_is_in_any_published_file(bare, memories, tmp_path):
    """Everything private that a run has is there, and none of it gets out."""
    prompts = [memory.caption for memory in memories]
    images = training_images(memories)
    audit = audit_of(
        bare,
        "hidden, not removed",
        work={"prompt": prompts[0]},
        corpus={"source": "captions.txt"},
        ordinary={"by_prompt": [{"prompt": prompts[1], "change": 0.1}]},
        attacks={"embedding": {"prompt": prompts[2], "replicating_after_attack": 16}},
        command=f"surgery audit --prompts {prompts[3]}",
    )
    surgery.record_audit(bare, audit, accept_risk="a test")
    surgery.write_card(bare, source=PLANTED_FOLDER)
    plan = surgery.upload(bare, "lab/model")
    assert not plan.refusals
    published = {file.path: file.location.read_bytes() for file in plan.files}
    for path, content in published.items():
        for prompt in prompts:
            assert prompt.encode() not in content, f"{path} quotes {prompt!r}"
        for image in images:
            for form in encodings(np.asarray(image)):
                assert form not in content, f"{path} holds a training image"


def encodings(image: np.ndarray) -> list[bytes]:
    """An image as raw bytes in both layouts (a row of it each, from the middle), and as the core of a PNG."""
    from PIL import Image

    pixels = image if image.shape[-1] == 3 else image.transpose(1, 2, 0)
    pixels = pixels.astype(np.uint8)
    middle = pixels.shape[0] // 2
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    rows = [pixels[middle].tobytes(), pixels.transpose(2, 0, 1)[0, middle].tobytes()]
    return [row for row in rows if len(set(row)) > 8] + [png.getvalue()[48:112]]


PRIVATE = {
    "neurons.json": (b'{"format": "surgery.neurons/1", "layers": {}}', "neurons.json"),
    "journal": (b'{"format": "surgery.journal/1"}\n', "journal"),
    "state.json": (b'{"format":"surgery.audit-state/1"}', "not for publishing"),
    "ranking.jsonl": (b'{"prompt": "a caption", "score": 1}\n', "quotes prompts"),
    "captions.txt": (b"a caption\nanother\n", "may quote prompts"),
    "sample.png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "a training image"),
    ".env": (b"HF_TOKEN=x", "is hidden"),
    "tokenizer_config.json": (b'{"x": "hf_' + b"a" * 34 + b'"}', "a Hugging Face token"),
    "LICENSE": (b"-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
    "config.json": (b'{"key": "AKIA' + b"A" * 16 + b'"}', "an access key"),
}


@pytest.mark.parametrize("name", PRIVATE)
def test_private_matter_is_recognized_by_what_it_holds(tmp_path, name):
    content, words = PRIVATE[name]
    (tmp_path / name).write_bytes(content)
    found = list(private_matter([hashed(name, tmp_path / name)]))
    assert any(words in sentence for sentence in found), found


def test_a_calibration_among_the_weights_is_recognized(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"mean/x": np.zeros(3, np.float32)}, path, {"surgery": json.dumps({"source": "captions.txt"})})
    (sentence,) = private_matter([hashed("model.safetensors", path)])
    assert "a calibration or an edit" in sentence


def test_captions_in_a_header_of_weights_are_recognized(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, path, {"format": "pt", "ss_tag_frequency": "{}"})
    file = hashed("model.safetensors", path)
    (sentence,) = private_matter([file])
    assert "may quote captions" in sentence
    assert not list(private_matter([file], allow=["model.safetensors"]))


def test_a_picture_that_somebody_looked_at_may_be_published(tmp_path):
    (tmp_path / "sample.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    file = hashed("sample.png", tmp_path / "sample.png")
    assert list(private_matter([file])) and not list(private_matter([file], allow=["sample.png"]))


def test_nothing_of_a_finished_folder_is_private(finished):
    paths = [path for path in finished.rglob("*") if path.is_file()]
    files = [hashed(path.relative_to(finished).as_posix(), path) for path in paths]
    assert len(files) == 12 and not list(private_matter(files))
