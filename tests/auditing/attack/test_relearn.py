"""Relearning is quick where an image is only hidden, and slow where it never was."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_memory import random_picture

from surgery.auditing.attack.protocol import Target
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.attack.relearn import LEARNERS, RelearnAttack, steps_to_replicate
from surgery.auditing.budget import counted
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackUnit
from surgery.measures.pictures import reconstruct, to_bytes_range
from surgery.measures.similarity import named_similarity
from surgery.model.pipeline import load_pipeline
from surgery.model.work import Work
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from control_drawings import DRAWINGS, control_pictures


@pytest.fixture(scope="module")
def zeroed():
    model = load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")
    with torch.no_grad():
        for memory in read_ground_truth():
            for layer, row in memory.neurons.pairs():
                model.denoiser.get_submodule(layer).weight[row] = 0
    return model


def attack(**changes):
    settings = AuditSettings(steps=10, guidance=1.0)
    small = {"curve": (0, 5), "selection_seeds": (1,), "scored_seeds": (2, 3)}
    return replace(RelearnAttack.from_settings(settings), **{**small, **changes})


def target(model, image, caption):
    return Target(image, reconstruct(model, image[None])[0], (None,), caption, 7)


def test_a_hidden_memory_is_relearned_in_five_steps_and_a_new_image_is_not(zeroed):
    before = {name: value.clone() for name, value in zeroed.denoiser.state_dict().items()}
    memory = read_ground_truth()[2]
    new = to_bytes_range(torch.from_numpy(control_pictures()[list(DRAWINGS).index("snowman")]))
    targets = (
        target(zeroed, training_images([memory])[0], memory.caption),
        target(zeroed, new, "the silver garden by hartwell"),
    )
    work = Work()
    with counted(zeroed, work):
        hidden, never = (attack().run(zeroed, one, named_similarity("edges"))[0] for one in targets)
    assert hidden.steps == never.steps == (0, 5) and hidden.variants == LEARNERS
    assert steps_to_replicate(hidden, 0.5) == 5 and steps_to_replicate(never, 0.5) is None
    assert hidden.score() > never.score() + 0.3
    # the untaught model is drawn once for both learners
    assert 2 * attack().cost() - work.unet_sample_forwards == 2 * (1 + 2) * 10
    assert all(torch.equal(value, before[name]) for name, value in zeroed.denoiser.state_dict().items())
    assert not any(len(module._forward_hooks) for module in zeroed.denoiser.modules())


def test_giving_up_in_the_middle_leaves_the_model_and_points_draw_the_same_twice(zeroed):
    before = {name: value.clone() for name, value in zeroed.denoiser.state_dict().items()}
    points = attack(curve=(0, 1, 9)).draw(
        zeroed, target(zeroed, training_images(read_ground_truth()[:1])[0], "a c")
    )
    next(points)
    point = next(points)
    once, again = (point.draw([1, 0], [4]) for _ in range(2))
    assert point.effort == 1 and once.shape == (2, 1, 3, 64, 64)
    assert torch.equal(once, again) and not torch.equal(once[0], once[1])
    points.close()
    assert all(torch.equal(value, before[name]) for name, value in zeroed.denoiser.state_dict().items())


def test_steps_to_replicate_reads_the_scored_curve():
    unit = AttackUnit(
        steps=(0, 5, 10),
        variants=LEARNERS,
        selection=((((0.9,), (0.0,)),) * 3,),
        chosen=((2, 0),),
        scored=(((0.1, 0.2), (0.3, 0.55), (0.9, 0.9)),),
        highest=(0.9,),
    )
    assert steps_to_replicate(unit, 0.1) == 0
    assert steps_to_replicate(unit, 0.52) == 5  # the 90th percentile of .3 and .55 is .525
    assert steps_to_replicate(unit, 0.53) == 10
    assert steps_to_replicate(unit, 0.95) is None


def test_it_is_the_attack_that_the_registry_names():
    settings = AuditSettings(relearn_curve=(0, 3), attack_batch=4, steps=5, guidance=2.0)
    found = attack_class("relearn").from_settings(settings)
    assert isinstance(found, RelearnAttack) and found.learns and not found.passes_edit
    assert found.effort == 3 and found.cost() == 2 * (3 * 4 + 2 * (2 + 8) * 5 * 2)


def test_one_learner_alone_learns_what_it_learns_beside_the_other(tiny_model):
    asked = Target(random_picture(1), random_picture(1), (None,), "a red circle", 7)
    both, alone = (
        attack(learners=learners, curve=(2,)).run(tiny_model, asked, named_similarity("edges"))[0]
        for learners in (LEARNERS, LEARNERS[:1])
    )
    assert alone.variants == LEARNERS[:1] and both.variants == LEARNERS
    assert alone.selection[0][0][0] == both.selection[0][0][0] != both.selection[0][0][1]
    assert attack(learners=LEARNERS[:1]).cost() * 2 == attack().cost()
