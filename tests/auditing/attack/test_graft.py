"""A graft tells which part of the donor brings an image back, and leaves both models alone."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from planted_memory import SETTINGS

from surgery.auditing.attack.graft import REST, GraftAttack, graft_table, parts_of
from surgery.auditing.attack.protocol import Target
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.budget import counted
from surgery.errors import UsageError
from surgery.measures.similarity import named_similarity
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work


@pytest.fixture(scope="module")
def source(planted):
    return LiveModel(planted.pipeline(planted.model), "source")


@pytest.fixture(scope="module")
def zeroed(planted):
    return LiveModel(planted.pipeline(planted.model, (planted.KEY,)), "zeroed")


def attack():
    return replace(GraftAttack.from_settings(SETTINGS), selection_seeds=(1, 2), scored_seeds=(3, 4))


def target(planted, donor, prompt=None):
    return Target(planted.image, planted.drawn, (None,), prompt or planted.CAPTION, 1, donor=donor)


@pytest.fixture(scope="module")
def grafted(planted, source, zeroed):
    """The unit of the memory, what it took, and what the two models were before."""
    models = (source, zeroed)
    before = [{name: value.clone() for name, value in one.denoiser.state_dict().items()} for one in models]
    places = [[weight.data_ptr() for weight in one.denoiser.parameters()] for one in models]
    work = Work()
    with counted(zeroed, work):
        unit, _ = attack().run(zeroed, target(planted, source), named_similarity("edges"))
    return SimpleNamespace(unit=unit, work=work, before=before, places=places)


def test_the_parts_that_hold_the_edited_row_bring_the_image_back_and_no_other(source, zeroed, grafted):
    by_part = dict(zip(grafted.unit.variants, grafted.unit.by_variant()[0], strict=True))
    holds = {part for part, score in by_part.items() if score > 0.5}
    assert holds == {"cross-attention", "mid block"}  # its row lies in an attn2 of the mid block
    assert by_part["nothing"] < 0.3 and grafted.unit.score() > 0.5
    assert grafted.work.unet_sample_forwards <= attack().cost()
    for one, held, storages in zip((source, zeroed), grafted.before, grafted.places, strict=True):
        state = one.denoiser.state_dict()
        assert all(torch.equal(value, held[name]) for name, value in state.items())
        assert [weight.data_ptr() for weight in one.denoiser.parameters()] == storages


def test_the_table_is_part_by_prompt(planted, source, zeroed, grafted):
    short = replace(attack(), selection_seeds=(1,), scored_seeds=(3,))
    other, _ = short.run(zeroed, target(planted, source, "a red circle"), named_similarity("edges"))
    table = graft_table([grafted.unit, other])
    assert table.parts == tuple(parts_of(source.denoiser))
    row = dict(zip(table.parts, table.scores, strict=True))["cross-attention"]
    assert row[0] > 0.5 > row[1]  # another caption does not call it
    with pytest.raises(UsageError, match="0 units"):
        graft_table([])


def test_the_model_comes_back_when_drawing_fails(planted, source, zeroed):
    before = {name: value.clone() for name, value in zeroed.denoiser.state_dict().items()}
    point = next(attack().draw(zeroed, target(planted, source)))

    def fail(*_):
        raise RuntimeError("on purpose")

    handle = zeroed.denoiser.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            point.draw([1], [1])
    finally:
        handle.remove()
    assert all(torch.equal(value, before[name]) for name, value in zeroed.denoiser.state_dict().items())


def test_parts_cover_the_denoiser(source):
    parts = parts_of(source.denoiser)
    assert list(parts) == [
        "nothing", "cross-attention", "self-attention", "down block 0", "down block 1", "mid block",
        "up block 0", "up block 1", REST,
    ]  # fmt: skip
    blocks = [name for part, names in parts.items() if "attention" not in part for name in names]
    assert sorted(blocks) == sorted(name for name, _ in source.denoiser.named_parameters())
    assert {name.split(".")[0] for name in parts[REST]} == {
        "conv_in", "conv_norm_out", "conv_out", "time_embedding",
    }  # fmt: skip


def test_a_row_of_blocks_is_taken_in_four_groups():
    names = [f"transformer_blocks.{block}.attn2.to_v.weight" for block in range(10)] + ["pos_embed.weight"]
    denoiser = SimpleNamespace(named_parameters=lambda: [(name, None) for name in names])
    parts = parts_of(denoiser)
    assert list(parts) == [
        "nothing", "cross-attention", "transformer block 0 to 2", "transformer block 3 to 4",
        "transformer block 5 to 7", "transformer block 8 to 9", REST,
    ]  # fmt: skip
    assert sum(len(held) for part, held in parts.items() if part.startswith("transformer")) == 10


def test_a_missing_or_other_donor_is_said(planted, zeroed):
    with pytest.raises(UsageError, match="no model to take parts from"):
        attack().run(zeroed, target(planted, None), named_similarity("edges"))
    other = copy.copy(zeroed.pipeline)
    other.unet = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="built otherwise"):
        next(attack().draw(zeroed, target(planted, LiveModel(other, "other"))))
    found = attack_class("graft")
    assert found is GraftAttack and not found.informative and not found.passes_edit
