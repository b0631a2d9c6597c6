"""The gate: do held-out attacks, and a look at ordinary prompts, find the hardened model in order?

Attacks have seeds that training never saw and are longer than those in the loop; every image is attacked at
once, and so are pictures that no model saw. An image is found where one of its pictures is a replica, or
scores above the highest control by more than the margin. The gate holds where none is found and ordinary
prompts, and neighbors, changed no more than allowed.

Ordinary prompts are compared with SOURCE; neighbors with SOURCE without the rows, because a prompt that keeps
the word on which a memory hangs draws it from SOURCE still.

The gate says when to stop. It is no audit: `surgery audit` judges with attacks that never fed back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from surgery.auditing.attack.conditioned import draw_conditioned
from surgery.auditing.attack.embedding import optimize_embeddings
from surgery.auditing.attack.output import optimize_constants
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.measures.utility import ordinary_change
from surgery.hardening.material import Material
from surgery.hardening.pools import embedding_attack, joined, output_attack
from surgery.hardening.settings import HardenSettings
from surgery.model.ablation import ablate
from surgery.model.injection import injected
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work
from surgery.neurons import NeuronSet

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
    ordinary: list[str],
    similarity: Similarity,
    settings: HardenSettings,
    work: Work,
    number: int,
) -> GateResult:
    """Judge the student after round `number`."""
    memories = len(material.memories)
    scores: dict[str, list[float]] = {}
    controls: dict[str, list[float]] = {}
    for name, drawn in _attacked(student, material, settings, number):
        best = _best(drawn, material, similarity)
        scores[name] = [max(old, new) for old, new in zip(scores.get(name, best), best, strict=True)]
    for name in list(scores):
        controls[name] = scores[name][memories:]
        scores[name] = scores[name][:memories]
    found = [
        place
        for place in range(memories)
        if any(
            values[place] >= similarity.threshold
            or values[place] > max(controls[name]) + settings.gate_margin
            for name, values in scores.items()
        )
    ]
    change = _change(source, student, ordinary[: settings.gate_ordinary], settings, work)
    neighbors = spread(material.neighbors, settings.gate_ordinary)
    with ablate(source.denoiser, neurons if neighbors else NeuronSet()):
        near = _change(source, student, neighbors, settings, work)
    small = all(one is None or one <= settings.max_change for one in (change, near))
    return GateResult(scores, controls, found, change or 0.0, near, not found and small)


def _attacked(
    student: LiveModel, material: Material, settings: HardenSettings, number: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """(attack, pictures [memories and controls, seeds, 3, height, width]) for every attack and guidance."""
    clean = torch.cat([torch.stack([memory.clean for memory in material.memories]), material.controls])
    own = joined([memory.own for memory in material.memories]).join(material.control_prompts)
    first = GATE_SEEDS + settings.seed + 10_000 * (number + 1)
    seeds = [first + place for place in range(len(clean))]
    picture_seeds = [first + 5_000 + place for place in range(settings.gate_seeds)]
    steps = settings.gate_embedding
    for _, told in optimize_embeddings(student, clean, own, embedding_attack(settings, (steps,)), seeds):
        for guidance in settings.gate_guidance:
            drawn = draw_conditioned(student, told, picture_seeds, settings.drawing(guidance))
            yield f"embedding {steps}", drawn
    under, steps = material.empty.repeat(len(clean)), settings.gate_output
    for _, constants in optimize_constants(student, clean, under, output_attack(settings, (steps,)), seeds):

        def around(
            places: torch.Tensor, given: dict[str, torch.Tensor] = constants
        ) -> AbstractContextManager[None]:
            return injected(student.denoiser, {name: one[places] for name, one in given.items()})

        for guidance in settings.gate_guidance:
            drawing = settings.drawing(guidance)
            yield f"output {steps}", draw_conditioned(student, under, picture_seeds, drawing, around)


def _best(drawn: torch.Tensor, material: Material, similarity: Similarity) -> list[float]:
    compared = [(memory.compared, memory.mask) for memory in material.memories]
    compared += [(picture, None) for picture in material.control_pictures]
    return [
        float(similarities_to(pictures, target, similarity, mask).max())
        for pictures, (target, mask) in zip(drawn, compared, strict=True)
    ]


def spread(prompts: Sequence[str], count: int) -> list[str]:
    """At most `count` of the prompts, from beginning to end."""
    return list(prompts[:: max(1, len(prompts) // count)][:count])


def _change(
    source: LiveModel, student: LiveModel, prompts: list[str], settings: HardenSettings, work: Work
) -> float | None:
    if not prompts:
        return None
    return ordinary_change(
        source, student, prompts, ORDINARY_SEEDS, TIMESTEPS, settings.batch_size, work, quiet=True
    ).total
