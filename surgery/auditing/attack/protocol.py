"""What an attack is: a way to draw an image from a model again, in steps, and how it is scored.

An attack says what it costs and draws pictures along a curve of effort: after so many gradient steps, prompts
tried, or whatever it spends. `run` compares them with the image, in one way for every attack, for every image
and for every model, so that only the attack itself can differ. The stages know nothing but this.

To add an attack: a module with a subclass of `Attack`, and its line in `surgery.auditing.attack.registry`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Self

import torch

from surgery.auditing.bench import PICTURES_KEPT
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import Pictures
from surgery.auditing.units import AttackUnit
from surgery.model.pipeline import LiveModel


@dataclass(frozen=True)
class Target:
    """An image under attack, and what an attacker knows about it.

    Attributes:
        image: what is attacked for, uint8 [3, height, width].
        compared: what drawn pictures are compared with, of the same shape.
        masks: under which masks [height, width] they are compared; None for everywhere.
        prompt: the caption that once called it, or any for an image that none called.
        others: unrelated captions.
        seed: of all chance in the attack. Each image has its own, the same on every model; the next 99 are
            its restarts'.
    """

    image: torch.Tensor
    compared: torch.Tensor
    masks: tuple[torch.Tensor | None, ...]
    prompt: str
    others: tuple[str, ...]
    seed: int


class Attack(ABC):
    """One way to get an image out of a model.

    Attributes:
        name: of the attack, as the registry lists it.
        starts: one word per restart.
    """

    name: ClassVar[str]
    starts: tuple[str, ...]

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: AuditSettings) -> Self:
        """The attack as the settings of an audit ask for it."""

    @abstractmethod
    def cost(self) -> int:
        """The sample-forwards of attacking one image on one model, with all pictures drawn."""

    @abstractmethod
    def draw(self, model: LiveModel, target: Target) -> Iterator[tuple[int, torch.Tensor]]:
        """Attack one image on one model, which must be left as it was found.

        Yields:
            (effort spent so far, pictures uint8 [restarts, seeds, 3, height, width]) at each point of the
            curve, rising; the points are the same for every image.

        Raises:
            SurgeryError: the attack cannot be made on this model.
        """

    def run(self, model: LiveModel, target: Target, similarity: Similarity) -> tuple[AttackUnit, Pictures]:
        """Attack one image on one model, and score it.

        Returns:
            The unit, and `attacked`: pictures of the best restart at the best point of the curve, by the
            median over seeds under the first mask.
        """
        steps: list[int] = []
        table: list[list[tuple[tuple[float, ...], ...]]] = [[] for _ in target.masks]
        best, kept, kept_at = -math.inf, None, 0
        for step, drawn in self.draw(model, target):
            steps.append(step)
            for row, mask in zip(table, target.masks, strict=True):
                row.append(
                    tuple(
                        tuple(similarities_to(pictures, target.compared, similarity, mask).tolist())
                        for pictures in drawn
                    )
                )
            medians = [median(seeds) for seeds in table[0][-1]]
            if max(medians) > best:
                best, kept, kept_at = max(medians), drawn[medians.index(max(medians))], step
        assert kept is not None, f"the attack {self.name} drew nothing"
        unit = AttackUnit(
            steps=tuple(steps),
            starts=self.starts,
            similarities=tuple(tuple(row) for row in table),
            pictures_step=kept_at,
        )
        return unit, {"attacked": kept[:PICTURES_KEPT]}
