"""The attack stages of an audit: control images, their attack, and the attack on every prompt's image.

Controls and prompts are attacked alike: the same starts, steps, seeds of pictures and number of restarts, and
the best point of the best restart's curve counts for both: whoever attacks keeps what worked best, not what
came last. Only what the pictures are compared with differs. Which attack it is makes no difference here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from surgery.auditing.attack.protocol import Attack, Target
from surgery.auditing.bench import Bench
from surgery.auditing.budget import counted
from surgery.auditing.measures.pictures import reconstruct
from surgery.auditing.measures.replication import generate
from surgery.auditing.store import Pictures
from surgery.auditing.subjects import Subject
from surgery.auditing.units import AttackPair, AttackUnit, ControlPictureUnit, ReplicationUnit
from surgery.errors import SurgeryError
from surgery.model.pipeline import LiveModel

CONTROL_NUMBERS = 50_000  # numbers of control images start here, those of prompts at 0
SEEDS_OF_AN_IMAGE = 100  # for one attack's restarts


def attack_controls(
    bench: Bench,
    attack: Attack,
    images: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor | None],
    prompts: Sequence[str],
) -> list[AttackUnit]:
    """Attack the control images on PATCHED, each compared under every mask in use; the units that were made.

    Args:
        images: uint8 [3, height, width] each.
        masks: bool [height, width] each; None for everywhere.
        prompts: ordinary ones: the attack on control k starts at one that did not make it.
    """
    units = []
    for index, image in enumerate(bench.progress(images, "controls", "image")):
        target = partial(_control_target, bench, index, image, masks, prompts)
        unit = _attacked(bench, attack, bench.patched, AttackUnit.key(attack.name, "control", index), target)
        if unit is None:
            break
        units.append(unit)
    return units


def attack_subjects(
    bench: Bench, attack: Attack, subjects: Sequence[Subject], wanted: Sequence[bool], prompts: Sequence[str]
) -> list[AttackPair | None]:
    """Attack the wanted prompts' images on both models; None where not wanted, or where none was made.

    Args:
        wanted: one per subject; only subjects whose replication was measured.
        prompts: ordinary ones, where an attack may begin.
    """
    found: list[AttackPair | None] = []
    for index in bench.progress(range(len(subjects)), "attack", "prompt"):
        if not wanted[index]:
            found.append(None)
            continue
        target = partial(_subject_target, bench, index, subjects[index], prompts)
        pair = {
            name: _attacked(bench, attack, model, AttackUnit.key(attack.name, name, index), target)
            for name, model in (("patched", bench.patched), ("source", bench.source))
        }
        found.append(AttackPair(**pair) if any(pair.values()) else None)
    return found


def make_controls(bench: Bench, prompts: Sequence[str]) -> list[torch.Tensor]:
    """Control images made by SOURCE from ordinary prompts, one each: uint8 [3, height, width].

    Raises:
        SurgeryError: there are no ordinary prompts.
    """
    if not prompts:
        raise SurgeryError("controls", "no ordinary prompts to make them from", "give --control-images")
    images: list[torch.Tensor] = []
    drawing = bench.settings.drawing()
    for index in bench.progress(range(bench.settings.controls), "make controls", "image"):

        def measure(index: int = index) -> tuple[ControlPictureUnit, Pictures]:
            prompt, seeds = prompts[index % len(prompts)], bench.settings.seeds_for("controls", 1, index)
            drawn = generate(bench.source, [prompt], seeds, drawing, bench.budget.work, quiet=True)
            return ControlPictureUnit(), {"control": drawn[0]}

        key = ControlPictureUnit.key(index)
        if bench.unit(ControlPictureUnit, key, drawing.forwards(1), measure) is None:
            break
        images.append(bench.store.pictures(key)["control"][0])
    return images


def _attacked(
    bench: Bench, attack: Attack, model: LiveModel, key: str, target: Callable[[], Target]
) -> AttackUnit | None:
    """The unit of one attack; `target` is asked only where the attack is really made."""

    def measure() -> tuple[AttackUnit, Pictures]:
        with counted(model, bench.budget.work):
            return attack.run(model, target(), bench.similarity)

    return bench.unit(AttackUnit, key, attack.cost(), measure)


def _control_target(
    bench: Bench,
    index: int,
    image: torch.Tensor,
    masks: Sequence[torch.Tensor | None],
    prompts: Sequence[str],
) -> Target:
    return Target(
        image,
        compared=image if bench.settings.raw_images else reconstruct(bench.source, image[None])[0],
        masks=tuple(masks),
        prompt=prompts[(index + 1) % len(prompts)],
        others=tuple(one for one in prompts if one != prompts[index % len(prompts)]),
        seed=_seed(bench, CONTROL_NUMBERS + index),
    )


def _subject_target(bench: Bench, index: int, subject: Subject, prompts: Sequence[str]) -> Target:
    compared = bench.store.pictures(ReplicationUnit.key(index))["target"][0]
    return Target(
        image=compared if subject.image is None else subject.image,
        compared=compared,
        masks=(subject.mask,),
        prompt=subject.prompt,
        others=tuple(prompts),
        seed=_seed(bench, index),
    )


def _seed(bench: Bench, number: int) -> int:
    """Where the chance of the attack on an image begins: each image has its own, the same on every model."""
    return bench.settings.seeds_for("attack", 1, SEEDS_OF_AN_IMAGE * number)[0]
