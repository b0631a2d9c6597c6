"""Hardening on the testbed, a few steps each: the edit is whole, resumes exactly, says no when it must."""

import json
from dataclasses import replace

import numpy
import pytest
import torch

from surgery import harden, patch
from surgery.checkpoint.edit.edit_file import load_edit
from surgery.cli import main
from surgery.errors import UsageError
from surgery.hardening import gate, ladder, material
from surgery.hardening.estimate import estimate
from surgery.hardening.gate import GateResult, found_among
from surgery.hardening.settings import HardenSettings
from surgery.model.injection import text_attentions
from surgery.model.pipeline import load_pipeline
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth, read_ordinary_prompts

SMALL = HardenSettings(
    rungs=("hardened",), rounds=2, first_gate=2, embedding_steps=2, output_steps=2, attack_batch=2, steps=2,
    further_steps=2, batch=2, keep_batch=2, positions=2, surrogates=1, blinding_states=4, ordinary=3,
    neighbors=1, drawing_steps=2,
    gate_embedding=2, gate_output=2, gate_controls=1, gate_ordinary=1, gate_seeds=1, gate_guidance=(1.0,),
)  # fmt: skip
MEMORIES = read_ground_truth()[:2]
CAPTIONS = [memory.caption for memory in MEMORIES]
NEURONS = NeuronSet().union(*(memory.neurons for memory in MEMORIES))
IMAGES = dict(zip(CAPTIONS, training_images(MEMORIES), strict=True))


@pytest.fixture(autouse=True)
def a_gate_that_says(monkeypatch):
    """Two memories after two steps: what the gate finds is chance, so a test says what it is to find."""
    says = {"holds": True}
    real = ladder.ask_gate

    def ask(*given):
        return replace(real(*given), holds=says["holds"])

    monkeypatch.setattr(ladder, "ask_gate", ask)
    return says


def run(output, settings=SMALL, **more):
    known = {"neurons": NEURONS, "images": IMAGES, "device": "cpu"}
    return harden(str(PLANTED_FOLDER), CAPTIONS, output, settings=settings, **{**known, **more})


def tensors_of(edit):
    change = load_edit(edit).changes[0]
    return {
        name: numpy.frombuffer(change.weights.read(tensor.begin, tensor.end), "<f4").reshape(tensor.shape)
        for name, tensor in change.weights.header.tensors.items()
    }


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """One run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("harden")
    with pytest.MonkeyPatch.context() as patched:
        real = ladder.ask_gate
        patched.setattr(ladder, "ask_gate", lambda *given: replace(real(*given), holds=True))
        return run(folder / "edit"), folder


def test_the_edit_is_whole_and_patch_applies_it(once, tmp_path):
    result, _ = once
    assert result.holds and result.edit is not None
    written = tensors_of(result.edit)
    denoiser = load_pipeline(PLANTED_FOLDER, device="cpu").denoiser
    assert written.keys() == dict(denoiser.named_parameters()).keys()
    before = {name: value.detach().numpy() for name, value in denoiser.named_parameters()}
    assert sum((written[name] != before[name]).any() for name in written) > 0.9 * len(written)
    for layer, rows in NEURONS.items():
        assert not written[f"{layer}.weight"][list(rows)].any()
    patch(PLANTED_FOLDER, result.edit, tmp_path / "out")
    patched = load_pipeline(tmp_path / "out", device="cpu", dtype="float32").denoiser
    for name, value in patched.named_parameters():
        # the testbed is stored in half precision
        assert torch.equal(value, torch.from_numpy(written[name].copy()).half().float()), name


def test_nothing_private_is_written(once):
    result, folder = once
    names = sorted(file.name for file in result.edit.iterdir())
    assert names == ["edit.json", "edit.safetensors", "hardening.json"]
    assert [file.name for file in folder.iterdir()] == ["edit"], "the state outlived the run"
    for file in result.edit.iterdir():
        content = file.read_bytes()
        assert not any(caption.encode() in content for caption in CAPTIONS), file


def test_a_killed_run_goes_on_to_the_same_edit(once, tmp_path, monkeypatch):
    real, rounds = ladder._round, []

    def killed(*given):
        if rounds:
            raise KeyboardInterrupt
        rounds.append(1)
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(ladder, "_round", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "edit")
    assert not (tmp_path / "edit").exists()
    with pytest.raises(
        UsageError, match=r"images; masks; prompts; max_change 0\.07 there, 0\.1 here; rate 0\.0002 there"
    ):
        harden(
            str(PLANTED_FOLDER), CAPTIONS[:1], tmp_path / "edit", neurons=NEURONS, device="cpu",
            settings=replace(SMALL, rate=1e-3, max_change=0.1),
        )  # fmt: skip
    result = run(tmp_path / "edit")
    one, other = tensors_of(once[0].edit), tensors_of(result.edit)
    assert all(numpy.array_equal(one[name], other[name]) for name in one)


def test_rounds_that_were_not_enough_go_on_to_what_more_of_them_make(a_gate_that_says, once, tmp_path):
    a_gate_that_says["holds"] = False
    assert run(tmp_path / "edit", replace(SMALL, rounds=1)).edit is None
    a_gate_that_says["holds"] = True
    one, other = tensors_of(once[0].edit), tensors_of(run(tmp_path / "edit").edit)
    assert all(numpy.array_equal(one[name], other[name]) for name in one)


def test_no_round_of_any_rung_is_made_twice(a_gate_that_says, tmp_path, monkeypatch):
    made, real = [], ladder._round

    def counted(bench, trainer, settings, pools, rounds, number):
        made.append((trainer.by_output, number))
        return real(bench, trainer, settings, pools, rounds, number)

    monkeypatch.setattr(ladder, "_round", counted)
    a_gate_that_says["holds"] = False
    settings = replace(SMALL, rungs=("closed", "hardened"), rounds=1)
    for _ in range(2):
        assert run(tmp_path / "edit", settings).edit is None and made == [(False, 0), (True, 0)]
    a_gate_that_says["holds"] = True
    result = run(tmp_path / "edit", replace(settings, rounds=2))
    assert result.rungs[-1].name == "closed" and made[2:] == [(False, 1)]


def test_no_rung_that_holds_writes_nothing_unless_told_to(a_gate_that_says, tmp_path, capsys):
    a_gate_that_says["holds"] = False
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(CAPTIONS[0])
    small = ["positions=2", "surrogates=1", "ordinary=3", "neighbors=1", "drawing-steps=2", "rungs=zeroed"]
    small += [
        f"gate-{name}=1" for name in ("embedding", "output", "controls", "ordinary", "seeds", "guidance")
    ]
    command = ["harden", str(PLANTED_FOLDER), "--prompts", str(prompts), "-o", str(tmp_path / "edit")]
    assert main([*command, *(f"--{one}" for one in small), "--device", "cpu", "--quiet"]) == 3
    assert not (tmp_path / "edit").exists()
    printed = capsys.readouterr()
    assert "nothing was written" in printed.out and "does not hold" in printed.err
    assert "--rungs" in printed.out and "surgery patch" not in printed.out
    for left in (tmp_path / ".edit.hardening").iterdir():
        left.unlink()
    (tmp_path / ".edit.hardening").rmdir()
    result = run(tmp_path / "edit", replace(SMALL, rungs=("zeroed",)), keep_going=True)
    edit = load_edit(result.edit)
    assert not result.holds and edit.neurons == NEURONS and not edit.changes


def test_the_ladder_stops_where_the_gate_holds(tmp_path):
    result = run(tmp_path / "edit", replace(SMALL, rungs=("zeroed", "closed", "hardened")))
    assert [rung.name for rung in result.rungs] == ["zeroed"]


def test_the_rung_closed_changes_cross_attention_alone(tmp_path):
    result = run(tmp_path / "edit", replace(SMALL, rungs=("closed",), rounds=1, first_gate=1))
    attentions = tuple(f"{name}." for name in text_attentions(load_pipeline(PLANTED_FOLDER).denoiser))
    names = tensors_of(result.edit)
    assert names and all(name.startswith(attentions) for name in names)


def test_without_images_or_neurons_the_prompts_are_hardened_by_themselves(tmp_path):
    """SOURCE's own replicas stand in, and what rows did not resolve is trained away from its prompt."""
    settings = replace(SMALL, rounds=1, first_gate=1, drawing_steps=8, positions=10)
    result = run(tmp_path / "edit", settings, images=None, neurons=None)
    assert not all(one["resolved_by_rows"] for one in result.document["prompts"])
    assert all(0 <= one["leaking_neighbors"] <= settings.neighbors for one in result.document["prompts"])
    assert not load_edit(result.edit).neurons.count


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"neurons": NeuronSet({"nowhere": [1]})}, "no such row"),
        ({"dtype": "float16"}, "does not train"),
        ({"settings": replace(SMALL, optimizer="adamw8bit")}, "bitsandbytes"),
        ({"images": {"another prompt": None}}, "none of the prompts"),
        ({"ordinary_file": "memories.txt"}, "no caption but the prompts"),
    ],
)
def test_bad_inputs(change, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memories.txt").write_text("\n".join(CAPTIONS))
    with pytest.raises(UsageError, match=words):
        run(tmp_path / "edit", **change)
    assert not (tmp_path / "edit").exists()


def test_an_output_that_exists_is_refused(tmp_path):
    with pytest.raises(UsageError, match="exists"):
        run(tmp_path)
    for rungs in (("hardened", "zeroed"), ("zeroed", "zeroed"), ()):
        with pytest.raises(UsageError, match="rise"):
            HardenSettings(rungs=rungs)
    with pytest.raises(UsageError, match="gate-guidance: nan is not a number"):
        HardenSettings(gate_guidance=(1.0, float("nan")))


def test_the_estimate_bounds_what_was_spent(once, capsys, tmp_path):
    spent = once[0].document["work"]["sample_forwards"]
    found = estimate(PLANTED_FOLDER, CAPTIONS, SMALL, "cpu")
    assert spent <= found.total <= 4 * spent
    assert found.trained["hardened"] > 3_000_000
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(CAPTIONS))
    command = ["harden", str(PLANTED_FOLDER), "--prompts", str(prompts)]
    for output in ([], ["-o", str(tmp_path / "edit")]):
        assert main([*command, *output, "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["prompts"] == 2 and not (tmp_path / "edit").exists()
    assert main(command) == 2 and "-o: is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scores", "controls", "found"),
    [
        ([0.49, 0.51, 0.9], [0.2, 0.45], [1, 2]),  # replicas, and no control is one
        ([0.29, 0.31, 0.1], [0.2, 0.1], [1]),  # above the controls by more than the margin
        ([0.55, 0.59, 0.61], [0.2, 0.51], [2]),  # controls are drawn as well: only what is above them
    ],
)
def test_an_image_is_found_beside_the_controls(scores, controls, found):
    assert found_among({"a": scores}, {"a": controls}, 0.5, 0.1) == found
    assert found_among({"a": scores, "b": [0.0] * 3}, {"a": controls, "b": [0.0]}, 0.5, 0.1) == found


def test_where_only_the_change_is_too_large_a_round_repairs(tmp_path, monkeypatch):
    """The gate says of the first round that nothing is found but too much changed."""
    asked = []
    real = ladder.ask_gate

    def ask(*given):
        asked.append(given[-1])
        return replace(real(*given), found=[], holds=len(asked) == 2)

    monkeypatch.setattr(ladder, "ask_gate", ask)
    settings = replace(SMALL, rounds=3, first_gate=1, further_steps=0, repair_steps=1)
    result = run(tmp_path / "edit", settings)
    first, second = result.document["rungs"][0]["rounds"]
    assert {"attack", "repair"} & first["stages"].keys() == set() and "blind" in first["stages"]
    assert "repair" in second["stages"] and not {"attack", "blind"} & second["stages"].keys()


def test_the_gate_counts_what_is_found():
    gate = GateResult({"a": [0.1, 0.9]}, {"a": [0.2]}, [1], 0.01, None, False)
    assert gate.as_json()["found"] == [1] and GateResult(**gate.__dict__) == gate


def test_the_gate_asks_ordinary_prompts_of_every_kind_and_none_that_was_kept(tmp_path, monkeypatch):
    """The file of the testbed begins with dozens of the shortest captions."""
    asked, kept = [], []
    measure, choose = gate.ordinary_change, material.kept_prompts

    def recorded(source, student, prompts, *given, **more):
        asked.extend(prompts)
        return measure(source, student, prompts, *given, **more)

    def chosen(*given):
        kept.extend(found := choose(*given))
        return found

    monkeypatch.setattr(gate, "ordinary_change", recorded)
    monkeypatch.setattr(material, "kept_prompts", chosen)
    run(tmp_path / "edit", replace(SMALL, rounds=1, first_gate=1, gate_ordinary=12))
    ordinary = [one for one in asked if one in read_ordinary_prompts()][:12]
    assert len(set(ordinary)) == 12 and not set(ordinary) & set(kept)
    assert len({len(one.split()) for one in ordinary}) >= 3
