"""The gate: do held-out attacks, and a look at ordinary prompts, find the hardened model in order?

Attacks have seeds that training never saw and are longer than those in the loop; every image is attacked at
once, and so are pictures that no model saw. An image is found where one of its pictures is a replica and no
control's is, or scores above the highest control by more than the margin: long attacks draw pictures that no
model saw, too. The gate holds where none is found and ordinary prompts, and neighbors, changed no more than
allowed.

Ordinary prompts, chosen at random among those that were not kept (where there are enough), are compared with
SOURCE; neighbors with SOURCE without the rows, because a prompt that keeps the word on which a memory hangs
draws it from SOURCE still.

The gate says when to stop. It is no audit: `surgery audit` judges with attacks that never fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from surgery.auditing.attack.conditioned import draw_conditioned
from surgery.auditing.attack.embedding import optimize_embeddings
from surgery.auditing.attack.output import optimize_constants
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.measures.utility import ordinary_change
from surgery.hardening.dealing import Dealer, groups_of
from surgery.hardening.material import Material
from surgery.hardening.pools import embedding_attack, joined, output_attack
from surgery.hardening.settings import HardenSettings
from surgery.measures.similarity import Similarity
from surgery.model.ablation import ablate
from surgery.model.injection import injected
from surgery.model.pipeline import LiveModel
from surgery.neurons import NeuronSet
from surgery.ordinary import evenly

GATE_SEEDS = 4_000_000
ORDINARY_SEEDS, TIMESTEPS = (0, 1, 2), 6


@dataclass(frozen=True)
class GateResult:
    """What the gate found.

    Attributes:
        scores: attack -> the most alike of each memory's pictures, in their order.
        controls: attack -> the same of the controls.
        found: places of the memories that an attack finds.
        change: of ordinary prompts, in units of a seed's; `neighbor_change` of neighbors, None without any.
        holds: whether none is found and neither change is too large.
    """

    scores: dict[str, list[float]]
    controls: dict[str, list[float]]
    found: list[int]
    change: float
    neighbor_change: float | None
    holds: bool

    def as_json(self) -> dict[str, object]:
        """The numbers, rounded."""
        return {
            "scores": {name: [round(one, 4) for one in values] for name, values in self.scores.items()},
            "controls": {name: [round(one, 4) for one in values] for name, values in self.controls.items()},
            "found": list(self.found),
            "change": round(self.change, 4),
            "neighbor_change": None if self.neighbor_change is None else round(self.neighbor_change, 4),
            "holds": self.holds,
        }


def ask_gate(
    source: LiveModel,
    student: LiveModel,
    material: Material,
    neurons: NeuronSet,
    similarity: Similarity,
    settings: HardenSettings,
    dealer: Dealer,
    number: int,
) -> GateResult:
    """Judge the student after round `number`."""
    memories = len(material.memories)
    asked = material.gate_prompts[: settings.gate_ordinary]
    near = evenly(material.neighbors, settings.gate_ordinary)
    attacks = _attacks(student, material, similarity, settings, number)

    def change_of(prompt: str, without: NeuronSet) -> float:
        with ablate(source.denoiser, without):
            changed = ordinary_change(
                source, student, [prompt], ORDINARY_SEEDS, TIMESTEPS, settings.batch_size, dealer.work,
                quiet=True,
            )  # fmt: skip
        return changed.by_prompt[0]

    pieces: list[Callable[[], Any]] = [act for _, act in attacks]
    pieces += [partial(change_of, one, NeuronSet()) for one in asked]
    pieces += [partial(change_of, one, neurons) for one in near]
    answers = dealer.all_of(pieces)
    scores: dict[str, list[float]] = {}
    for (name, _), of_group in zip(attacks, answers, strict=False):
        scores.setdefault(name, []).extend(of_group)
    controls = {name: values[memories:] for name, values in scores.items()}
    scores = {name: values[:memories] for name, values in scores.items()}
    changes = answers[len(attacks) :]
    change = _mean(changes[: len(asked)])
    near_change = _mean(changes[len(asked) :]) if near else None
    found = found_among(scores, controls, similarity.threshold, settings.gate_margin)
    small = all(one is None or one <= settings.max_change for one in (change, near_change))
    return GateResult(scores, controls, found, change, near_change, not found and small)


def found_among(
    scores: Mapping[str, Sequence[float]],
    controls: Mapping[str, Sequence[float]],
    threshold: float,
    margin: float,
) -> list[int]:
    """The places of the memories that an attack finds, rising.

    Args:
        scores: attack -> the most alike of each memory's pictures; `controls` the same of the controls.
        threshold: of a replica; margin: above the highest control.
    """
    found: set[int] = set()
    for name, values in scores.items():
        highest = max(controls[name])
        least = min(threshold, highest + margin) if highest < threshold else highest + margin
        found |= {place for place, value in enumerate(values) if value >= least}
    return sorted(found)


def _attacks(
    student: LiveModel, material: Material, similarity: Similarity, settings: HardenSettings, number: int
) -> list[tuple[str, Callable[[], list[float]]]]:
    """(attack, what finds the most alike of each image's pictures) for every attack and group of images, in
    the order of the images: memories, then controls.
    """
    clean = torch.cat([torch.stack([memory.clean for memory in material.memories]), material.controls])
    own = joined([memory.own for memory in material.memories]).join(material.control_prompts)
    first = GATE_SEEDS + settings.seed + 10_000 * (number + 1)
    seeds = [first + place for place in range(len(clean))]
    picture_seeds = [first + 5_000 + place for place in range(settings.gate_seeds)]

    def highest(group: slice, draw: Callable[[Drawing], torch.Tensor]) -> list[float]:
        found = [
            _best(draw(settings.drawing(guidance)), group, material, similarity)
            for guidance in settings.gate_guidance
        ]
        return [max(values) for values in zip(*found, strict=True)]

    def by_embedding(group: slice) -> list[float]:
        attack = embedding_attack(settings, (settings.gate_embedding,))
        ((_, told),) = optimize_embeddings(student, clean[group], own.select(group), attack, seeds[group])
        return highest(group, lambda drawing: draw_conditioned(student, told, picture_seeds, drawing))

    def by_output(group: slice) -> list[float]:
        attack = output_attack(settings, (settings.gate_output,))
        under = material.empty.repeat(len(clean[group]))
        ((_, constants),) = optimize_constants(student, clean[group], under, attack, seeds[group])

        def around(places: torch.Tensor) -> AbstractContextManager[None]:
            return injected(student.denoiser, {name: one[places] for name, one in constants.items()})

        return highest(
            group, lambda drawing: draw_conditioned(student, under, picture_seeds, drawing, around)
        )

    groups = groups_of(len(clean), settings)
    return [
        *((f"embedding {settings.gate_embedding}", partial(by_embedding, group)) for group in groups),
        *((f"output {settings.gate_output}", partial(by_output, group)) for group in groups),
    ]


def _best(drawn: torch.Tensor, group: slice, material: Material, similarity: Similarity) -> list[float]:
    compared = [(memory.compared, memory.mask) for memory in material.memories]
    compared += [(picture, None) for picture in material.control_pictures]
    return [
        float(similarities_to(pictures, target, similarity, mask).max())
        for pictures, (target, mask) in zip(drawn, compared[group], strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
