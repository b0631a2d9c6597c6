"""A short fine-tuning learns what it is taught, and gives the model back bit for bit."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

from surgery.errors import SurgeryError, UsageError
from surgery.model.conditioning import encode_prompts
from surgery.model.finetuning import Finetuning, Samples, rate_for
from surgery.model.learners import (
    LowRank,
    WholeDenoiser,
    attention_projections,
    exchanged,
)
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.testbed.load import PLANTED_FOLDER


@pytest.fixture(scope="module")
def model():
    return load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")


def small_unet():
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def samples(model, count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, *model.latent_shape), generator=generator)
    return Samples(
        noised=torch.randn((count, *model.latent_shape), generator=generator),
        wanted=noise,
        timesteps=torch.randint(1000, (count,), generator=generator),
        conditioning=encode_prompts(model, ["a red circle", "a blue star"]),
        caption=torch.arange(count) % 2,
    )


def snapshot(model):
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}


def places(model):
    return [parameter.data_ptr() for parameter in model.denoiser.parameters()]


def untouched(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.denoiser.state_dict().items())


@torch.no_grad()
def error(model, taught):
    chosen = taught.conditioning.select(taught.caption)
    said = model.denoiser(
        taught.noised.to(model.dtype), taught.timesteps, encoder_hidden_states=chosen.embeddings
    ).sample
    return float((said.float() - taught.wanted).square().mean())


def learner_of(model, which):
    return WholeDenoiser(model.denoiser) if which == "whole" else LowRank(model.denoiser, seed=3)


@pytest.mark.parametrize(("which", "rate"), [("whole", 1e-3), ("low rank", 1e-2)])
def test_what_was_learnt_shows_only_inside_and_the_model_is_left_bit_for_bit(model, which, rate):
    before, storages, taught = snapshot(model), places(model), samples(model)
    at_first = error(model, taught)
    learner = learner_of(model, which)
    with learner.applied():
        assert error(model, taught) == pytest.approx(at_first, rel=1e-6)  # nothing learnt yet
    finetuning = Finetuning(model, learner, rate, chunk=8)
    for _ in range(4):
        finetuning.step(taught)
        assert untouched(model, before)
    with learner.applied():
        assert error(model, taught) < 0.95 * at_first
    assert error(model, taught) == at_first
    assert untouched(model, before) and places(model) == storages
    assert not any(len(module._forward_hooks) for module in model.denoiser.modules())
    assert all(one.requires_grad and one.grad is None for one in model.denoiser.parameters())


@pytest.mark.parametrize("which", ["whole", "low rank"])
def test_the_model_comes_back_when_something_fails_inside(model, which):
    before = snapshot(model)
    learner = learner_of(model, which)
    finetuning = Finetuning(model, learner, 1e-2, chunk=8)
    finetuning.step(samples(model))
    with pytest.raises(RuntimeError, match="on purpose"), learner.applied():
        raise RuntimeError("on purpose")
    broken = samples(model)
    broken.wanted.fill_(float("inf"))
    with pytest.raises(SurgeryError, match="not finite"):
        finetuning.step(broken)
    assert untouched(model, before)
    assert all(one.requires_grad and one.grad is None for one in model.denoiser.parameters())


def test_gradients_and_flags_of_the_user_are_not_lost(model):
    own = copy.copy(model.pipeline)
    own.unet = copy.deepcopy(model.denoiser)
    model = LiveModel(own, "own")
    first, *_, last = model.denoiser.parameters()
    first.requires_grad_(False)
    last.grad = torch.full_like(last, 3.0)
    for which in ("whole", "low rank"):
        Finetuning(model, learner_of(model, which), 1e-3, chunk=8).step(samples(model))
        assert not first.requires_grad and last.requires_grad
        assert float(last.grad.min()) == float(last.grad.max()) == 3.0


def test_a_step_is_adam_whatever_the_chunk(model):
    taught = samples(model, 5)
    found = []
    for chunk in (8, 2):
        learner = WholeDenoiser(model.denoiser)
        Finetuning(model, learner, 1e-3, chunk).step(taught)
        found.append([one.detach().clone() for one in learner.parameters])
    own = list(model.denoiser.parameters())
    chosen = taught.conditioning.select(taught.caption)
    said = model.denoiser(taught.noised, taught.timesteps, encoder_hidden_states=chosen.embeddings).sample
    (said - taught.wanted).square().mean().backward()
    for whole, chunked, parameter in zip(*found, own, strict=True):
        large = parameter.grad.abs() > 1e-5  # Adam's first step is the rate against the gradient's sign
        moved = whole - parameter.detach()
        assert torch.allclose(moved[large], -1e-3 * parameter.grad[large].sign(), atol=1e-5)
        assert torch.allclose(whole[large], chunked[large], atol=1e-5)
        parameter.grad = None


def test_half_precision_learns_in_float32(model):
    own = copy.copy(model.pipeline)
    torch.manual_seed(0)
    own.unet = small_unet().to(torch.bfloat16)  # the testbed's takes half a minute in this type on a CPU
    half = LiveModel(own, "half")
    before, taught = snapshot(half), samples(half, 3)
    learner = WholeDenoiser(half.denoiser)
    assert all(one.dtype == torch.float32 for one in learner.parameters)
    at_first = error(half, taught)
    finetuning = Finetuning(half, learner, 1e-3, chunk=8)
    for _ in range(8):
        finetuning.step(taught)
    with learner.applied():
        assert half.dtype == torch.bfloat16 and error(half, taught) < 0.9 * at_first
    assert untouched(half, before)


def test_keep_leaves_what_was_learnt(model):
    own = copy.copy(model.pipeline)
    own.unet = copy.deepcopy(model.denoiser)
    kept = LiveModel(own, "kept")
    taught = samples(kept)
    learner = WholeDenoiser(kept.denoiser)
    Finetuning(kept, learner, 1e-3, chunk=8).step(taught)
    with learner.applied():
        inside = error(kept, taught)
    learner.keep()
    assert error(kept, taught) == inside < error(model, taught)


def test_low_rank_additions_hang_on_every_attention_projection(model):
    layers = attention_projections(model.denoiser)
    assert len(layers) == 8 * sum(name.endswith("attn2.to_v") for name in layers)
    learner = LowRank(model.denoiser, seed=1)
    assert len(learner.parameters) == 2 * len(layers)
    assert {one.shape[0] for one in learner.parameters[::2]} == {4}
    again = LowRank(model.denoiser, seed=1).parameters
    assert all(torch.equal(one, other) for one, other in zip(learner.parameters, again, strict=True))
    assert sum(one.numel() for one in learner.parameters) < 0.05 * sum(
        one.numel() for one in model.denoiser.parameters()
    )


def test_exchanged_parameters_come_back(model):
    before, storages = snapshot(model), places(model)
    parameter = next(model.denoiser.parameters())
    other = torch.ones_like(parameter)
    with pytest.raises(RuntimeError, match="on purpose"), exchanged([(parameter, other)]):
        assert float(parameter.detach().min()) == 1.0
        raise RuntimeError("on purpose")
    assert untouched(model, before) and places(model) == storages


def test_a_wider_denoiser_learns_at_a_smaller_rate(model):
    assert rate_for(model.denoiser, 1e-3) == pytest.approx(1e-3)
    wide = torch.nn.ModuleDict({"attn2": torch.nn.ModuleDict({"to_q": torch.nn.Linear(640, 640)})})
    assert rate_for(torch.nn.ModuleDict({"block": wide}), 1e-3) == pytest.approx(1e-4)
    assert rate_for(torch.nn.Linear(2, 2), 1e-3) == 1e-3


def test_weights_that_are_not_in_memory_are_refused():
    with torch.device("meta"):
        absent = torch.nn.Linear(2, 2)
    for make in (WholeDenoiser, lambda denoiser: LowRank(denoiser, 1)):
        with pytest.raises(UsageError, match="not in memory"):
            make(absent)
    with pytest.raises(UsageError, match="no plain attention"):
        LowRank(torch.nn.Linear(2, 2), 1)
