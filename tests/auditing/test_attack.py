"""The embedding attack follows the published recipe, whatever the batching, and leaves the model alone."""

import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from planted_memory import random_picture
from planted_memory import run as run_audit

from surgery.auditing.attack import registry
from surgery.auditing.attack.embedding import (
    EmbeddingAttack,
    draw_from_embeddings,
    optimize_embeddings,
    restarts_of,
    start_embeddings,
)
from surgery.auditing.attack.protocol import Attack, Target
from surgery.auditing.budget import counted
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackUnit
from surgery.errors import UsageError
from surgery.model.denoising import encode_prompts
from surgery.model.work import Work


@pytest.fixture(scope="module")
def clean():
    return torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(3))


def attack(**changes):
    return replace(EmbeddingAttack.from_settings(AuditSettings()), **changes)


def run(model, clean, attack, seeds):
    starts = start_embeddings(
        attack.starts, encode_prompts(model, ["a red circle"]), encode_prompts(model, ["blue ring"]), seeds
    )
    return dict(optimize_embeddings(model, clean, starts, attack, seeds))


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
    settings = attack(curve=(0, 1), starts=("prompt",), batch=3)
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
    settings = attack(curve=(0, 3), starts=("prompt", "gaussian"), batch=4, batch_size=8)
    together = run(tiny_model, clean, settings, (1, 2))[3].embeddings
    chunked = attack(curve=(0, 3), starts=("prompt", "gaussian"), batch=4, batch_size=3)
    assert torch.allclose(run(tiny_model, clean, chunked, (1, 2))[3].embeddings, together, atol=1e-3)
    alone = attack(curve=(0, 3), starts=("gaussian",), batch=4)
    assert torch.allclose(run(tiny_model, clean, alone, (2,))[3].embeddings[0], together[1], atol=1e-3)


def test_the_model_is_left_as_it_was_and_every_forward_is_counted(tiny_model):
    before = {name: value.clone() for name, value in tiny_model.denoiser.state_dict().items()}
    small = attack(
        curve=(0, 2), starts=restarts_of(2), batch=3, picture_seeds=(1, 2), drawing=Drawing(2, 1.0, 3)
    )
    image = random_picture(1)
    target = Target(image, image, (None,), "a red circle", ("blue ring",), 1)
    work = Work()
    with counted(tiny_model, work):
        drawn = dict(small.draw(tiny_model, target))
    assert [pictures.shape for pictures in drawn.values()] == [(2, 2, 3, 64, 64)] * 2 and set(drawn) == {0, 2}
    assert work.unet_sample_forwards == small.cost() == 2 * (2 * 3 + 2 * 2 * 2)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.denoiser.state_dict().items())
    assert all(parameter.requires_grad for parameter in tiny_model.denoiser.parameters())
    assert all(parameter.grad is None for parameter in tiny_model.denoiser.parameters())


def test_the_attack_lowers_the_loss_it_optimizes(tiny_model, clean):
    settings = attack(curve=(0, 12), starts=("prompt",), batch=8)
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
    "options", [{"curve": (10, 5)}, {"curve": ()}, {"attack_batch": 0}, {"restarts": 0}, {"learning_rate": 0}]
)
def test_impossible_attacks_are_refused(options):
    with pytest.raises(UsageError):
        AuditSettings(**options)


def flat(value):
    """Two pictures of one brightness."""
    return torch.full((2, 3, 8, 8), value, dtype=torch.uint8)


BRIGHTNESS = Similarity("brightness", lambda first, *_: (first.flatten(1).mean(1) + 1) / 2, 0.5, "here")


class Brightening(Attack):
    """An attack that asks no model: two restarts, three points, the second restart peaks in the middle."""

    name = "brightening"
    starts = ("dark", "darker")
    points: ClassVar = {0: (10, 20), 5: (30, 200), 9: (40, 60)}

    @classmethod
    def from_settings(cls, settings):
        return cls()

    def cost(self):
        return 0

    def draw(self, model, target):
        for step, values in self.points.items():
            yield step, torch.stack([flat(value) for value in values])


def test_the_best_point_of_a_curve_counts_and_its_pictures_are_kept():
    picture = torch.zeros(3, 8, 8)
    unit, pictures = Brightening().run(
        None, Target(picture, picture, (None, None), "a", ("b",), 0), BRIGHTNESS
    )
    assert unit.steps == (0, 5, 9) and unit.starts == ("dark", "darker")
    for mask in (0, 1):
        assert unit.curve(mask) == pytest.approx([20 / 255, 200 / 255, 60 / 255], abs=1e-6)
        assert unit.score(mask) == pytest.approx(200 / 255, abs=1e-6)
    assert unit.medians()[1] == pytest.approx([30 / 255, 200 / 255], abs=1e-6)
    assert unit.pictures_step == 5
    assert pictures["attacked"].unique().tolist() == [200]
    assert AttackUnit.from_json(json.loads(json.dumps(unit.as_json()))) == unit


def test_the_stages_run_any_attack_of_the_registry(planted, inputs, tmp_path, monkeypatch):
    class Cheating(Brightening):
        """Draws the image that it is asked for, but only for the planted caption."""

        name = "cheating"

        def draw(self, model, target):
            hit = target.prompt == planted.CAPTION
            shown = target.compared if hit else torch.zeros_like(target.compared)
            yield 7, shown.expand(2, 2, -1, -1, -1)

    monkeypatch.setitem(registry.ATTACKS, "embedding", Cheating)
    result = run_audit(planted, inputs, tmp_path, (planted.KEY, planted.BACK_DOOR))
    assert result.verdict == "hidden, not removed"
    attack = result.document["prompts"][0]["attack"]
    assert attack["steps"] == [7] and attack["starts"] == ["dark", "darker"]
    assert attack["patched"]["score"] == [1.0]
