"""A recipe that hardens: the edit is what is patched, and it is resumed and refused as any other step."""

import json
from types import SimpleNamespace

import pytest
from small_recipes import CAPTIONS, SEARCH, write_small_recipe

from surgery.applying.apply import apply_recipe
from surgery.applying.steps.harden import Harden
from surgery.errors import GateError

HARDEN = """
[harden]
rungs = ["hardened"]
rounds = 1
first_gate = 1
embedding_steps = 1
output_steps = 1
attack_batch = 1
steps = 1
batch = 1
surrogates = 1
positions = 2
ordinary = 2
neighbors = 0
drawing_steps = 1
gate_embedding = 1
gate_output = 1
gate_controls = 1
gate_ordinary = 1
gate_seeds = 1
gate_guidance = [1]
max_change = 1e-9
"""


def test_where_the_gate_does_not_hold_nothing_is_patched(tmp_path, monkeypatch):
    rung = SimpleNamespace(name="hardened")
    monkeypatch.setattr(
        "surgery.hardening.harden.harden", lambda *_, **__: SimpleNamespace(rungs=[rung], edit=None)
    )
    (tmp_path / "neurons.json").write_text('{"format": "surgery.neurons/1", "layers": {}}')
    body = '[localize]\nneurons = "neurons.json"\n' + HARDEN
    recipe = write_small_recipe(tmp_path, body=body, head="audit = false\n")
    with pytest.raises(GateError, match="its gate does not hold on rung `hardened`: nothing is patched"):
        apply_recipe(recipe, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_hardened_tensors_are_patched_and_proved(tmp_path):
    recipe = write_small_recipe(
        tmp_path, body=SEARCH + HARDEN + "keep_going = true\n", head="audit = false\n"
    )
    original = Harden.do

    def killed(self, run):
        original(self, run)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Harden, "do", killed)
        with pytest.raises(KeyboardInterrupt):
            apply_recipe(recipe, tmp_path / "out", device="cpu")
        edit = (tmp_path / "out.evidence" / "edit" / "edit.json").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("surgery.hardening.harden.climb", lambda *_: pytest.fail("hardened again"))
        applied = apply_recipe(recipe, tmp_path / "out", device="cpu")
    assert (tmp_path / "out.evidence" / "edit" / "edit.json").read_bytes() == edit
    facts = applied.facts("harden")
    assert (facts["rung"], facts["holds"], applied.exit_status) == ("hardened", False, 0)
    manifest = json.loads((applied.output / "surgery-manifest.json").read_text())
    assert manifest["trained"]["count"] == applied.facts("patch")["tensors"] > 100
    assert manifest["neurons"]["count"] >= 1
    for path in applied.output.rglob("*"):
        assert path.is_dir() or not any(caption.encode() in path.read_bytes() for caption in CAPTIONS), path
