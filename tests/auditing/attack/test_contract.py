"""What every attack keeps: its cost, the model as it was, the same pictures for the same seeds."""

from dataclasses import replace

import pytest
import torch
from planted_memory import random_picture

from surgery.auditing.attack.protocol import Target
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.budget import counted
from surgery.auditing.settings import AuditSettings
from surgery.measures.similarity import named_similarity
from surgery.model.work import Work

NAMES = ("embedding", "output", "prompts", "latent")
SETTINGS = AuditSettings(
    steps=2,
    guidance=3.0,
    attack_guidance=(1.0,),
    selection_seeds=1,
    attack_batch=3,
    restarts=2,
    curve=(0, 2),
    output_curve=(0, 2),
    latent_curve=(0, 1, 2),
    batch_size=4,
)
IMAGE = random_picture(1)
TARGET = Target(
    IMAGE,
    IMAGE,
    (None,),
    "the golden letter by ostrander",
    seed=1,
    others=("a blue ring", "a green star"),
    near=("a white cross", "a red circle", "a yellow star"),
)


def small(name, **changes):
    attack = attack_class(name).from_settings(replace(SETTINGS, **changes))
    attack = replace(attack, scored_seeds=attack.scored_seeds[:2])
    return replace(attack, sampler_steps=2) if name == "latent" else attack


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_is_what_is_counted_where_all_is_drawn(tiny_model, name):
    attack, work = small(name), Work()
    names = attack.variants(TARGET)
    # Guided pictures are the dearest: the last variant of all these attacks. The scored noises of `latent`
    # cost most where another variant is the best at each point.
    dearest = range(len(names)) if name == "latent" else [len(names) - 1] * 3
    with counted(tiny_model, work):
        points = 0
        for point, best in zip(attack.draw(tiny_model, TARGET), dearest, strict=False):
            drawn = point.draw(range(len(names)), attack.selection_seeds)
            assert drawn.shape == (len(names), 1, 3, 64, 64) and drawn.dtype == torch.uint8
            assert point.draw([best], attack.scored_seeds).shape == (1, 2, 3, 64, 64)
            points += 1
            assert point.effort <= attack.effort
    assert points == {"embedding": 2, "output": 2, "prompts": 1, "latent": 3}[name]
    assert work.unet_sample_forwards == attack.cost()


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was_also_where_the_attack_is_given_up(other_model, name):
    denoiser = other_model.denoiser
    before = {key: value.clone() for key, value in denoiser.state_dict().items()}
    frozen = next(denoiser.parameters()).requires_grad_(False)
    points = small(name).draw(other_model, TARGET)
    next(points).draw([0], (5,))
    points.close()
    for point in small(name, latent_curve=(1,)).draw(other_model, TARGET):
        point.draw([0], (5,))
    assert all(torch.equal(value, before[key]) for key, value in denoiser.state_dict().items())
    asking = [parameter for parameter in denoiser.parameters() if not parameter.requires_grad]
    assert len(asking) == 1 and asking[0] is frozen
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in denoiser.modules())
    assert not denoiser.training


@pytest.mark.parametrize("name", NAMES)
def test_pictures_depend_on_seeds_and_not_on_the_batch_the_company_or_how_often_they_are_drawn(
    tiny_model, name
):
    attack = small(name, latent_curve=(0, 1))
    last = len(attack.variants(TARGET)) - 1
    together = [point.draw([0, last], (5, 6)) for point in attack.draw(tiny_model, TARGET)]
    assert not together[-1][0, 0].equal(together[-1][0, 1])
    points = small(name, latent_curve=(0, 1), batch_size=3).draw(tiny_model, TARGET)
    for point, expected in zip(points, together, strict=True):
        alone = point.draw([last], (6,))
        assert (alone[0, 0].int() - expected[1, 1].int()).abs().max() <= 2
        assert point.draw([last], (6,)).equal(alone)


def test_an_attack_ends_where_its_score_is_enough(tiny_model):
    attack, measure = small("output", output_curve=(0, 1, 2)), named_similarity("edges")
    whole, _ = attack.run(tiny_model, TARGET, measure)
    ended, _ = attack.run(tiny_model, TARGET, measure, enough=whole.score() - 2)
    assert whole.steps == (0, 1, 2) and ended.steps == (0,)
    assert ended.selection[0] == whole.selection[0][:1] and ended.chosen[0][0] == 0


@pytest.mark.parametrize("name", NAMES)
def test_no_variant_is_named_by_the_words_of_a_prompt(name):
    words = {"golden", "letter", "ostrander", "ring", "green", "star", "cross", "circle", "yellow"}
    names = small(name).variants(TARGET)
    assert len(set(names)) == len(names)
    assert not words & set(" ".join(names).replace(",", " ").split())
