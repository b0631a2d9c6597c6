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
from surgery.auditing.bench import Bench
from surgery.auditing.budget import counted
from surgery.auditing.controls import Control
from surgery.auditing.measures.pictures import reconstruct
from surgery.auditing.store import Pictures
from surgery.auditing.subjects import Subject
from surgery.auditing.units import AttackPair, AttackUnit, ReplicationUnit, percentile
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


def attack_controls(
    bench: Bench, attack: Attack, controls: Sequence[Control], around: Surroundings, side: str = "patched"
) -> list[AttackUnit]:
    """Attack the controls on a model of the bench, under every mask in use; the units that were made."""
    units = []
    for index, control in enumerate(bench.progress(controls, f"{attack.name}: controls", "image")):
        target = partial(_control_target, bench, attack, index, control, controls, around)
        key = AttackUnit.key(attack.name, _against("control", side), index)
        unit = attacked(bench, attack, bench.models[side], key, target)
        if unit is None:
            break
        units.append(unit)
    return units


def attack_subjects(
    bench: Bench, attack: Attack, around: Surroundings, wanted: Sequence[bool]
) -> list[AttackPair | None]:
    """Attack the wanted prompts' images on every model; None where not wanted, or where none was made.

    Args:
        wanted: one per subject; only subjects whose replication was measured.
    """
    found: list[AttackPair | None] = []
    for index in bench.progress(range(len(around.subjects)), f"{attack.name}: prompts", "prompt"):
        if not wanted[index]:
            found.append(None)
            continue
        target = partial(_subject_target, bench, attack, index, around)
        pair = {}
        for side, model in bench.models.items():
            enough = _as_the_prompt_draws(bench, index) if side == "source" else math.inf
            key = AttackUnit.key(attack.name, side, index)
            pair[side] = attacked(bench, attack, model, key, target, enough)
        found.append(AttackPair(**pair) if any(pair.values()) else None)
    return found


def attack_canaries(
    bench: Bench,
    attack: Attack,
    canaries: Sequence[Control],
    around: Surroundings,
    model: LiveModel,
    stage: str,
) -> list[AttackUnit]:
    """Attack pictures that are known to be in the model; the units that were made."""
    units = []
    for index, canary in enumerate(bench.progress(canaries, f"{attack.name}: canaries", "image")):
        target = partial(_control_target, bench, attack, index, canary, canaries, around, CANARY_NUMBERS)
        key = AttackUnit.key(attack.name, f"canary-{stage}", index)
        unit = attacked(bench, attack, model, key, target)
        if unit is None:
            break
        units.append(unit)
    return units


def attacked(
    bench: Bench,
    attack: Attack,
    model: LiveModel,
    key: str,
    target: Callable[[], Target],
    enough: float = math.inf,
) -> AttackUnit | None:
    """The unit of one attack; `target` is asked only where the attack is really made.

    Args:
        enough: a score at which the attack may end, see `Attack.run`.
    """

    def measure() -> tuple[AttackUnit, Pictures]:
        with counted(model, bench.budget.work):
            return attack.run(model, target(), bench.similarity, enough)

    return bench.unit(AttackUnit, key, attack.cost(), measure)


def _against(what: str, side: str) -> str:
    return what if side == "patched" else f"{what}-{side}"


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


def _as_the_prompt_draws(bench: Bench, index: int) -> float:
    """How alike SOURCE draws a subject's image from its own prompt, nearly: more no attack needs to reach."""
    unit = bench.store.load(ReplicationUnit, ReplicationUnit.key(index))
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
