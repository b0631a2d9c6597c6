"""The embedding attack follows the published recipe, whatever the batching, and leaves the model alone."""

import contextlib

import pytest
import torch

from surgery.auditing.attack.embedding import (
    Attack,
    draw_from_embeddings,
    optimize_embeddings,
    restarts_of,
    start_embeddings,
)
from surgery.auditing.budget import counted
from surgery.auditing.measures.replication import Drawing
from surgery.errors import UsageError
from surgery.model.denoising import encode_prompts
from surgery.model.work import Work


@pytest.fixture(scope="module")
def clean():
    return torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(3))


def run(model, clean, settings, seeds):
    starts = start_embeddings(
        settings.starts, encode_prompts(model, ["a red circle"]), encode_prompts(model, ["blue ring"]), seeds
    )
    return dict(optimize_embeddings(model, clean, starts, settings, seeds))


def test_starts_are_the_prompt_noise_of_its_spread_and_another_prompt(tiny_model):
    own = encode_prompts(tiny_model, ["a red circle"])
    others = encode_prompts(tiny_model, ["blue ring", "a green star"])
    assert restarts_of(4) == ("prompt", "gaussian", "other", "prompt")
    found = start_embeddings(("prompt", "gaussian", "other"), own, others, (7, 8, 9)).embeddings
    assert torch.equal(found[0], own.embeddings[0])
    assert float(found[1].std()) == pytest.approx(float(own.embeddings.std()), rel=0.1)
    assert (found[1] - own.embeddings[0]).abs().mean() > 0.1
    assert any(torch.equal(found[2], other) for other in others.embeddings)
    again = start_embeddings(("gaussian",), own, others, (8,)).embeddings
    assert torch.equal(again[0], found[1])


def test_one_step_is_adam_on_the_denoising_loss(tiny_model, clean):
    settings = Attack(curve=(0, 1), starts=("prompt",), batch=3)
    curve = run(tiny_model, clean, settings, (5,))
    embedding = curve[0].embeddings.clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn((3, 4, 16, 16), generator=generator)
    timesteps = torch.randint(1000, (3,), generator=generator)
    noised = tiny_model.pipeline.scheduler.add_noise(clean.expand(3, -1, -1, -1), noise, timesteps)
    predicted = tiny_model.denoiser(noised, timesteps, embedding.expand(3, -1, -1)).sample
    (gradient,) = torch.autograd.grad((predicted - noise).square().mean(), embedding)
    # Adam's first step has the length of the learning rate in each coordinate, against the gradient's sign
    moved = curve[1].embeddings - curve[0].embeddings
    large = gradient.abs() > gradient.abs().median()
    assert torch.allclose(moved[large], -0.1 * gradient[large].sign(), atol=1e-3)


def test_restarts_and_chunks_do_not_change_the_course(tiny_model, clean):
    settings = Attack(curve=(0, 3), starts=("prompt", "gaussian"), batch=4, batch_size=8)
    together = run(tiny_model, clean, settings, (1, 2))[3].embeddings
    chunked = Attack(curve=(0, 3), starts=("prompt", "gaussian"), batch=4, batch_size=3)
    assert torch.allclose(run(tiny_model, clean, chunked, (1, 2))[3].embeddings, together, atol=1e-3)
    alone = Attack(curve=(0, 3), starts=("gaussian",), batch=4)
    assert torch.allclose(run(tiny_model, clean, alone, (2,))[3].embeddings[0], together[1], atol=1e-3)


def test_the_model_is_left_as_it_was_and_every_forward_is_counted(tiny_model, clean):
    before = {name: value.clone() for name, value in tiny_model.denoiser.state_dict().items()}
    settings = Attack(curve=(0, 2), starts=restarts_of(2), batch=3, picture_seeds=(1, 2))
    work = Work()
    with counted(tiny_model, work):
        for _step, conditioning in run(tiny_model, clean, settings, (1, 2)).items():
            pictures = draw_from_embeddings(tiny_model, conditioning, (1, 2), Drawing(2, 1.0, 3))
    assert pictures.shape == (2, 2, 3, 64, 64)
    assert work.unet_sample_forwards == settings.forwards(2) == 2 * (2 * 3 + 2 * 2 * 2)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.denoiser.state_dict().items())
    assert all(parameter.requires_grad for parameter in tiny_model.denoiser.parameters())
    assert all(parameter.grad is None for parameter in tiny_model.denoiser.parameters())


def test_the_attack_lowers_the_loss_it_optimizes(tiny_model, clean):
    settings = Attack(curve=(0, 12), starts=("prompt",), batch=8)
    curve = run(tiny_model, clean, settings, (5,))
    generator = torch.Generator().manual_seed(99)
    noise = torch.randn((32, 4, 16, 16), generator=generator)
    timesteps = torch.randint(1000, (32,), generator=generator)
    noised = tiny_model.pipeline.scheduler.add_noise(clean.expand(32, -1, -1, -1), noise, timesteps)

    @torch.no_grad()
    def loss(conditioning):
        told = conditioning.embeddings.expand(32, -1, -1)
        return float((tiny_model.denoiser(noised, timesteps, told).sample - noise).square().mean())

    assert loss(curve[12]) < loss(curve[0])


def test_drawing_from_a_prompts_own_embedding_is_drawing_the_prompt(tiny_model):
    from surgery.auditing.measures.replication import generate

    prompts = ["a red circle", "blue ring"]
    for guidance in (1.0, 3.0):
        drawing = Drawing(3, guidance, 4)
        drawn = draw_from_embeddings(tiny_model, encode_prompts(tiny_model, prompts), (4, 5), drawing)
        expected = generate(tiny_model, prompts, (4, 5), drawing, quiet=True)
        assert (drawn.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "options",
    [{"curve": (10, 5)}, {"curve": ()}, {"starts": ("nowhere",)}, {"batch": 0}, {"learning_rate": 0}],
)
def test_impossible_attacks_are_refused(options):
    with pytest.raises(UsageError):
        Attack(**options)


def test_the_best_point_of_a_curve_counts_and_its_pictures_are_kept(monkeypatch):
    from types import SimpleNamespace

    from surgery.auditing.attack import stages as attack_stages
    from surgery.auditing.store import unpack
    from surgery.model.work import Work

    # Two restarts, three points: brightness stands for similarity, the second restart peaks in the middle.
    brightness = {0: (10, 20), 5: (30, 200), 9: (40, 60)}

    def flat(value):
        return torch.full((2, 3, 8, 8), value, dtype=torch.uint8)

    monkeypatch.setattr(attack_stages, "encode_prompts", lambda *_: None)
    monkeypatch.setattr(attack_stages, "encode_pictures", lambda *_: [None])
    monkeypatch.setattr(attack_stages, "start_embeddings", lambda *_: None)
    monkeypatch.setattr(attack_stages, "counted", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(
        attack_stages, "optimize_embeddings", lambda *_: ((step, step) for step in brightness)
    )
    monkeypatch.setattr(
        attack_stages,
        "draw_from_embeddings",
        lambda _model, step, *_: [flat(value) for value in brightness[step]],
    )
    monkeypatch.setattr(
        attack_stages,
        "similarities_to",
        lambda pictures, *_: pictures.float().flatten(1).mean(1) / 255,
    )
    attack = SimpleNamespace(starts=("prompt", "gaussian"), curve=(0, 5, 9), picture_seeds=(0, 1))
    bench = SimpleNamespace(
        settings=SimpleNamespace(attack_settings=lambda: attack, attack_drawing=lambda: None, first_seed=0),
        budget=SimpleNamespace(work=Work()),
        similarity=None,
    )
    picture = torch.zeros(3, 8, 8)
    target = attack_stages.Target(picture, picture, (None,))
    unit = attack_stages.attack_unit(bench, None, target, "a", ["b"], 0)
    assert attack_stages.attack_curve(unit) == pytest.approx([20 / 255, 200 / 255, 60 / 255])
    assert attack_stages.attack_score(unit) == pytest.approx(200 / 255)
    assert unit["pictures_step"] == 5
    assert unpack(unit["pictures"]).unique().tolist() == [200]
