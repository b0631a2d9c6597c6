"""The attack stages of an audit: one attack on every control, and on every prompt's image, on every model.

Controls and prompts are attacked alike: the same starts, steps, picture seeds and restarts, each from a
caption of its own, and both keep what worked best. Only what the pictures are compared with differs. Which
attack it is makes no difference here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from surgery.auditing.attack.protocol import Attack, Sibling, Target
from surgery.auditing.bench import Bench, Job
from surgery.auditing.budget import counted
from surgery.auditing.controls import Control
from surgery.auditing.store import Pictures
from surgery.auditing.units import AttackUnit, ReplicationUnit, percentile
from surgery.measures.pictures import reconstruct
from surgery.measures.subjects import Subject
from surgery.model.pipeline import LiveModel

CONTROL_NUMBERS = 50_000  # numbers of control images start here, those of prompts at 0
CANARY_NUMBERS = 80_000
SEEDS_OF_AN_IMAGE = 100  # for one attack's restarts
FOLDS = 3  # siblings are the memories of the other folds: a third is left out
SIBLINGS = 32  # at most
NEAR = 8  # near captions at most
ENOUGH = 0.95  # of what SOURCE's prompt draws: an attack on SOURCE that reaches it ends


@dataclass(frozen=True)
class Surroundings:
    """What every target of an audit shares.

    Attributes:
        subjects: the audited prompts.
        masks: every mask in use, [height, width] each; None for everywhere.
        prompts: ordinary ones.
    """

    subjects: Sequence[Subject]
    masks: Sequence[torch.Tensor | None]
    prompts: Sequence[str]


def control_jobs(
    bench: Bench, attack: Attack, controls: Sequence[Control], around: Surroundings, side: str = "patched"
) -> list[Job]:
    """Attack the controls on a model of the bench, under every mask in use."""
    against = "control" if side == "patched" else f"control-{side}"
    return [
        _job(
            bench,
            attack,
            lambda: bench.models[side],
            AttackUnit.key(attack.name, against, index),
            partial(_control_target, bench, attack, index, control, controls, around),
            f"{attack.name}: controls",
            group=f"{attack.name} {against}",
        )
        for index, control in enumerate(controls)
    ]


def subject_jobs(bench: Bench, attack: Attack, around: Surroundings, wanted: Sequence[bool]) -> list[Job]:
    """Attack the wanted prompts' images on every model.

    Args:
        wanted: one per subject; only subjects whose replication was measured.
    """
    return [
        _job(
            bench,
            attack,
            partial(bench.models.__getitem__, side),
            AttackUnit.key(attack.name, side, index),
            partial(_subject_target, bench, attack, index, around),
            f"{attack.name}: prompts",
            enough=partial(_enough, bench, side, index),
        )
        for index in range(len(around.subjects))
        if wanted[index]
        for side in bench.models
    ]


def canary_jobs(
    bench: Bench,
    attack: Attack,
    canaries: Sequence[Control],
    around: Surroundings,
    model: Callable[[], LiveModel],
    stage: str,
) -> list[Job]:
    """Attack pictures that are known to be in the model, which is asked for where it is really attacked."""
    against = f"canary-{stage}"
    return [
        _job(
            bench,
            attack,
            model,
            AttackUnit.key(attack.name, against, index),
            partial(_control_target, bench, attack, index, canary, canaries, around, CANARY_NUMBERS),
            f"{attack.name}: canaries",
            group=f"{attack.name} {against}",
        )
        for index, canary in enumerate(canaries)
    ]


def _job(
    bench: Bench,
    attack: Attack,
    model: Callable[[], LiveModel],
    key: str,
    target: Callable[[], Target],
    what: str,
    group: str = "",
    enough: Callable[[], float] = lambda: math.inf,
) -> Job:
    """One attack; model and target are asked for only where it is really made.

    Args:
        enough: a score at which the attack may end, see `Attack.run`.
    """

    def measure() -> tuple[AttackUnit, Pictures]:
        attacked = model()
        with counted(attacked, bench.budget.work):
            return attack.run(attacked, target(), bench.similarity, enough())

    return Job(AttackUnit, key, attack.cost(), measure, what, group)


def _control_target(
    bench: Bench,
    attack: Attack,
    index: int,
    control: Control,
    controls: Sequence[Control],
    around: Surroundings,
    numbers: int = CONTROL_NUMBERS,
) -> Target:
    compared = (
        control.image if bench.settings.raw_images else reconstruct(bench.source, control.image[None])[0]
    )
    return Target(
        image=control.image,
        compared=compared,
        masks=tuple(around.masks),
        prompt=control.caption,
        seed=_seed(bench, numbers + index),
        others=tuple(one for one in around.prompts if one != control.caption),
        near=_near([one.caption for one in controls], index),
        siblings=_siblings(bench, attack, index, around),
        donor=bench.donor,
    )


def _subject_target(bench: Bench, attack: Attack, index: int, around: Surroundings) -> Target:
    subject = around.subjects[index]
    compared = _compared(bench, index)
    return Target(
        image=compared if subject.image is None else subject.image,
        compared=compared,
        masks=(subject.mask,),
        prompt=subject.prompt,
        seed=_seed(bench, index),
        others=tuple(around.prompts),
        near=_near([one.prompt for one in around.subjects], index),
        siblings=_siblings(bench, attack, index, around),
        donor=bench.donor,
    )


def _compared(bench: Bench, index: int) -> torch.Tensor:
    """What a subject's pictures are compared with, as replication left it: uint8 [3, height, width]."""
    return bench.store.pictures(ReplicationUnit.key(index))["target"][0]


def _enough(bench: Bench, side: str, index: int) -> float:
    """On SOURCE: how alike it draws a subject's image from its own prompt, nearly; more no attack needs."""
    unit = bench.store.load(ReplicationUnit, ReplicationUnit.key(index)) if side == "source" else None
    return math.inf if unit is None else ENOUGH * percentile(unit.before.to_target)


def _near(captions: Sequence[str], index: int) -> tuple[str, ...]:
    """The captions that share the most words with one of them, the nearest first."""
    own = set(captions[index].lower().split())
    others = [one for one in dict.fromkeys(captions) if one != captions[index]]
    ranked = sorted(others, key=lambda one: -len(own & set(one.lower().split())))
    return tuple(ranked[:NEAR])


def _siblings(bench: Bench, attack: Attack, index: int, around: Surroundings) -> tuple[Sibling, ...]:
    """The memories of the other folds, with their images as far as these are known."""
    if not attack.wants_siblings:
        return ()
    found: list[Sibling] = []
    for place, subject in enumerate(around.subjects):
        if place % FOLDS == index % FOLDS or len(found) == SIBLINGS:
            continue
        if subject.image is not None:
            found.append(Sibling(subject.prompt, subject.image))
        elif bench.store.load(ReplicationUnit, ReplicationUnit.key(place)) is not None:
            found.append(Sibling(subject.prompt, _compared(bench, place)))
    return tuple(found)


def _seed(bench: Bench, number: int) -> int:
    """Where the chance of the attack on an image begins: each image has its own, the same on every model."""
    return bench.settings.seeds_for("attack", 1, SEEDS_OF_AN_IMAGE * number)[0]
