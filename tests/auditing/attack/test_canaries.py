"""Canaries are taught to a copy of SOURCE and edited weakly; those that did not take are said."""

from dataclasses import replace

import pytest
import torch
from planted_memory import random_picture

from surgery.auditing import canaries
from surgery.auditing.bench import Bench
from surgery.auditing.budget import Budget
from surgery.auditing.canaries import Canaries, canary_cost, own_copy, weakly_edited
from surgery.auditing.controls import Control
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import Store
from surgery.errors import UsageError
from surgery.measures.similarity import named_similarity
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.testbed.load import PLANTED_FOLDER

SETTINGS = AuditSettings(steps=2, guidance=1.0, attack_batch=2)
PROMPTS = ["a red circle", "blue ring", "a green star"]
PICTURES = [Control(random_picture(1), "white cross"), Control(random_picture(2), "blue ring")]
ROW = ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v", 3)


def bench(folder, source, patched, threshold=0.0, limit=None):
    similarity = replace(named_similarity("edges"), threshold=threshold)
    return Bench(source, patched, SETTINGS, similarity, Store(folder, {}), Budget(limit), quiet=True)


def taught(one, pictures=PICTURES, prompts=PROMPTS):
    found = Canaries(one, pictures, prompts)
    found.learn(one.measured(found.jobs()))
    return found


@pytest.fixture
def patched(other_model):
    """The tiny model with one row zeroed."""
    with torch.no_grad():
        other_model.denoiser.get_submodule(ROW[0]).weight[ROW[1]] = 0
    return other_model


def same(model, held):
    return all(torch.equal(value, held[name]) for name, value in model.denoiser.state_dict().items())


def snapshot(model):
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}


def test_the_copy_learns_source_and_patched_stay(tiny_model, patched, monkeypatch, tmp_path):
    monkeypatch.setattr(canaries, "MOST_STEPS", 4)
    monkeypatch.setattr(canaries, "CHECK_EVERY", 2)
    monkeypatch.setattr(canaries, "KEEP_PICTURES", 2)
    before = [snapshot(tiny_model), snapshot(patched)]
    one = bench(tmp_path, tiny_model, patched, threshold=-1.0)  # everything is a replica
    found = taught(one)
    assert found.taken == tuple(PICTURES) and found.unit.steps == 2
    assert same(tiny_model, before[0]) and same(patched, before[1])
    assert not same(found.before(), before[0])
    assert 0 < one.budget.work.unet_sample_forwards <= canary_cost(SETTINGS, 2)
    assert found.before().pipeline.vae is tiny_model.pipeline.vae
    row = found.weakly_edited().denoiser.get_submodule(ROW[0]).weight[ROW[1]]
    assert float(row.detach().abs().max()) == 0.0
    # only the edited tensor differs
    differ = [
        name
        for name, value in found.weakly_edited().denoiser.state_dict().items()
        if not torch.equal(value, found.before().denoiser.state_dict()[name])
    ]
    assert differ == [f"{ROW[0]}.weight"]
    # an audit that goes on, and another process, find what was taught; where it is lost, they teach the same
    for lost in (False, True):
        if lost:
            (tmp_path / "state" / "canaries.pt").unlink()
        other = bench(tmp_path, tiny_model, patched, threshold=-1.0)
        again = taught(other)
        assert again.unit == found.unit and other.budget.spent == 0
        assert same(again.before(), snapshot(found.before()))
        assert same(again.weakly_edited(), snapshot(found.weakly_edited()))
        assert (other.budget.spent > 0) == lost


def test_what_never_takes_is_said_at_the_last_step(tiny_model, patched, monkeypatch, tmp_path):
    monkeypatch.setattr(canaries, "MOST_STEPS", 2)
    monkeypatch.setattr(canaries, "CHECK_EVERY", 1)
    monkeypatch.setattr(canaries, "KEEP_PICTURES", 1)
    found = taught(bench(tmp_path, tiny_model, patched, threshold=2.0), PICTURES, ["white cross"])
    assert found.taken == () and found.unit.steps == 2 and found.unit.drawn == (0.0, 0.0)


def test_a_budget_too_small_teaches_nothing(tiny_model, patched, tmp_path):
    one = bench(tmp_path, tiny_model, patched, limit=canary_cost(SETTINGS, 2) - 1)
    found = taught(one)
    assert found.taken == () and found.unit is None and one.budget.spent == 0
    assert taught(one, []).taken == () and Canaries(one, [], PROMPTS).jobs() == []


def test_half_of_an_edit_that_moves_weights(tiny_model, patched, other_model):
    taught = own_copy(tiny_model)
    with torch.no_grad():
        taught.denoiser.conv_in.weight.add_(1.0)
        patched.denoiser.conv_in.weight.mul_(3.0)
    found = weakly_edited(taught, tiny_model, patched)
    source = tiny_model.denoiser.conv_in.weight
    assert torch.allclose(found.denoiser.conv_in.weight, 1.0 + 2.0 * source, atol=1e-6)
    patched.pipeline.unet = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="built otherwise"):
        weakly_edited(taught, tiny_model, patched)


def test_a_copy_under_autocast_runs_its_own_weights():
    mixed = load_pipeline(PLANTED_FOLDER, device="cpu", dtype="mixed-bfloat16")
    wrapped = mixed.denoiser.forward
    found = own_copy(mixed)
    assert mixed.denoiser.forward is wrapped
    with torch.no_grad():
        found.denoiser.conv_out.weight.zero_()
        found.denoiser.conv_out.bias.fill_(0.5)
        inputs = torch.randn(1, 4, 16, 16), 10
        told = {"encoder_hidden_states": torch.zeros(1, 4, 128), "return_dict": False}
        assert float((found.denoiser(*inputs, **told)[0].float() - 0.5).abs().max()) < 1e-3
        assert float((mixed.denoiser(*inputs, **told)[0].float() - 0.5).abs().max()) > 0.1


def test_an_offloaded_denoiser_is_refused(other_model):
    other_model.denoiser._hf_hook = object()
    with pytest.raises(UsageError, match="offloaded"):
        own_copy(LiveModel(other_model.pipeline, "offloaded"))
