"""The embedding attack follows the published recipe, whatever the batching, and leaves the model alone."""

import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from planted_memory import random_picture

from surgery.auditing.attack.conditioned import draw_conditioned
from surgery.auditing.attack.embedding import (
    EmbeddingAttack,
    optimize_embeddings,
    restarts_of,
    start_embeddings,
    starts_for,
)
from surgery.auditing.attack.protocol import Attack, Point, Sibling, Target
from surgery.auditing.attack.registry import ATTACKS, attack_class
from surgery.auditing.drawing import Drawing
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackUnit
from surgery.errors import SurgeryError, UsageError
from surgery.measures.similarity import Similarity
from surgery.model.denoising import encode_prompts


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


def test_starts_are_the_prompt_noise_of_its_spread_another_prompt_and_a_siblings(tiny_model):
    own = encode_prompts(tiny_model, ["a red circle"])
    others = encode_prompts(tiny_model, ["blue ring", "a green star"])
    siblings = encode_prompts(tiny_model, ["white cross"])
    assert restarts_of(5) == ("prompt", "gaussian", "other", "sibling", "prompt")
    found = start_embeddings(restarts_of(4), own, others, (7, 8, 9, 10), siblings).embeddings
    assert torch.equal(found[0], own.embeddings[0])
    assert float(found[1].std()) == pytest.approx(float(own.embeddings.std()), rel=0.1)
    assert (found[1] - own.embeddings[0]).abs().mean() > 0.1
    assert any(torch.equal(found[2], other) for other in others.embeddings)
    assert torch.equal(found[3], siblings.embeddings[0])
    again = start_embeddings(("gaussian",), own, others, (8,)).embeddings
    assert torch.equal(again[0], found[1])


def test_a_sibling_start_is_a_near_caption_or_else_another_prompt(tiny_model):
    image = random_picture(1)
    target = Target(image, image, (None,), "a red circle", 1, others=("blue ring",), near=("white cross",))
    four = attack(starts=restarts_of(4))
    cross, ring = encode_prompts(tiny_model, ["white cross", "blue ring"]).embeddings
    assert torch.equal(starts_for(tiny_model, target, ("sibling",), (1,)).embeddings[0], cross)
    assert any("sibling" in name for name in four.variants(target))
    taught = replace(target, near=(), siblings=(Sibling("white cross", image),))
    assert torch.equal(starts_for(tiny_model, taught, ("sibling",), (1,)).embeddings[0], cross)
    alone = replace(target, near=())
    assert torch.equal(starts_for(tiny_model, alone, ("sibling",), (1,)).embeddings[0], ring)
    assert not any("sibling" in name for name in four.variants(alone))
    assert len(four.variants(alone)) == len(four.variants(target))


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


def test_a_batch_too_large_for_the_memory_is_halved(other_model, clean):
    largest = []

    def forget(module, arguments, keywords):
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError
        largest.append(len(arguments[0]))

    settings = attack(curve=(0, 2), starts=("prompt",), batch=4, batch_size=8)
    whole = run(other_model, clean, settings, (1,))[2].embeddings
    handle = other_model.denoiser.register_forward_pre_hook(forget, with_kwargs=True)
    halved = run(other_model, clean, settings, (1,))[2].embeddings
    assert set(largest) == {2} and torch.allclose(halved, whole, atol=1e-3)
    own = encode_prompts(other_model, ["a red circle", "blue ring"])
    assert draw_conditioned(other_model, own, (1, 2), Drawing(1, 1.0, 4)).shape == (2, 2, 3, 64, 64)
    handle.remove()
    other_model.denoiser.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(SurgeryError, match="single sample"):
        run(other_model, clean, settings, (1,))


def test_a_gradient_that_is_not_finite_is_refused(other_model, clean):
    with torch.no_grad():
        other_model.denoiser.conv_out.weight.fill_(float("nan"))
    with pytest.raises(SurgeryError, match="not finite"):
        run(other_model, clean, attack(curve=(0, 1), starts=("prompt",), batch=1), (1,))
    assert all(parameter.requires_grad for parameter in other_model.denoiser.parameters())


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
        drawing = Drawing(3, guidance, 3)
        drawn = draw_conditioned(tiny_model, encode_prompts(tiny_model, prompts), (4, 5), drawing)
        expected = generate(tiny_model, prompts, (4, 5), drawing, quiet=True)
        assert (drawn.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    "options", [{"curve": (10, 5)}, {"curve": ()}, {"attack_batch": 0}, {"restarts": 0}, {"learning_rate": 0}]
)
def test_impossible_attacks_are_refused(options):
    with pytest.raises(UsageError):
        AuditSettings(**options)


def test_a_variant_is_a_start_and_a_guidance_the_pipelines_own_among_them():
    image = random_picture(1)
    target = Target(image, image, (None,), "a red circle", 1)
    made = EmbeddingAttack.from_settings(AuditSettings(curve=(0, 200, 800), restarts=2, guidance=7.5))
    assert made.variants(target) == tuple(
        f"{start}, guidance {guidance}" for start in ("prompt", "gaussian") for guidance in ("1", "3", "7.5")
    )
    assert made.effort == 800
    assert not set(made.selection_seeds) & set(made.scored_seeds)


def flat(value):
    """A picture of one brightness."""
    return torch.full((3, 8, 8), value, dtype=torch.uint8)


BRIGHTNESS = Similarity("brightness", lambda first, *_: (first.flatten(1).mean(1) + 1) / 2, 0.5, "here")


class Brightening(Attack):
    """An attack that asks no model: two variants, three points; the second variant peaks in the middle."""

    name = "brightening"
    passes_edit = False
    points: ClassVar = {0: (10, 20), 5: (30, 200), 9: (40, 60)}
    scored_bonus: ClassVar = 5  # the scored seeds draw something else than those that choose
    effort = 9

    @classmethod
    def from_settings(cls, settings):
        return cls(selection_seeds=(1, 2), scored_seeds=(3, 4, 5))

    def variants(self, target):
        return "dark", "darker"

    def cost(self):
        return 0

    def draw(self, model, target):
        for step, values in self.points.items():

            def draw(places, seeds, values=values):
                bonus = self.scored_bonus if tuple(seeds) == self.scored_seeds else 0
                return torch.stack(
                    [torch.stack([flat(values[place] + bonus) for _ in seeds]) for place in places]
                )

            yield Point(step, draw)


def test_the_best_point_of_a_curve_counts_on_seeds_that_did_not_choose_it():
    picture = torch.zeros(3, 8, 8)
    target = Target(picture, picture, (None, None), "a", 0)
    unit, pictures = Brightening.from_settings(None).run(None, target, BRIGHTNESS)
    assert unit.steps == (0, 5, 9) and unit.variants == ("dark", "darker")
    for mask in (0, 1):
        assert unit.curve(mask) == pytest.approx([20 / 255, 200 / 255, 60 / 255], abs=1e-6)
        assert unit.chosen[mask] == (1, 1)
        assert unit.score(mask) == unit.highest[mask] == pytest.approx(205 / 255, abs=1e-6)
    assert unit.by_variant()[1] == pytest.approx([30 / 255, 200 / 255], abs=1e-6)
    assert pictures["attacked"].unique().tolist() == [205]
    assert AttackUnit.from_json(json.loads(json.dumps(unit.as_json()))) == unit


def test_an_attack_that_learns_is_scored_by_the_mean_of_its_best_variants_curve():
    class Learning(Brightening):
        learns = True

    picture = torch.zeros(3, 8, 8)
    unit, pictures = Learning.from_settings(None).run(
        None, Target(picture, picture, (None,), "a", 0), BRIGHTNESS
    )
    assert unit.chosen[0] == (2, 1)
    assert unit.score() == pytest.approx((25 + 205 + 65) / 3 / 255, abs=1e-6)
    assert pictures["attacked"].unique().tolist() == [65]


@pytest.mark.parametrize("name", ["embedding", "output", "prompts", "latent"])
def test_the_registry_leads_to_every_attack_and_its_settings(name):
    made = attack_class(name).from_settings(AuditSettings())
    assert made.name == name and name in ATTACKS
    assert len(made.scored_seeds) == 8 and len(made.selection_seeds) == 2
    assert made.effort > 0 and made.cost() > 0
    assert made.passes_edit == (name != "output")
