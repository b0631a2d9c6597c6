"""What an attack is: a way to draw an image from a model again, in steps, and how it is scored.

An attack says what it costs and offers pictures along a curve of effort: after so many gradient steps,
prompts tried, or whatever it spends. `run` compares them with the image, in one way for every attack, every
image and every model, so that only the attack itself can differ:

1. at each point of the curve, every variant (a start, a guidance, a prompt) is drawn at the selection seeds;
2. whenever a variant is the best so far, it is drawn again at the scored seeds, which chose nothing;
3. the score is the 90th percentile over the scored seeds of the variant and point that were best: whoever
   attacks keeps what worked best, and needs one picture, not the typical one.

An attack that teaches the image to the weights (`learns`) reaches every image in the end. It is scored by how
soon: the mean over the whole curve.

On SOURCE, which holds the memory, an attack may end early: once its score is `enough`, as high as what the
prompt itself draws. Going on could only raise it, and with it the margin of the test, in PATCHED's favor.

To add an attack: a module with a subclass of `Attack`, and its line in `surgery.auditing.attack.registry`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import ClassVar, Self

import torch

from surgery.auditing.bench import PICTURES_KEPT
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import Pictures
from surgery.auditing.units import AttackUnit, percentile
from surgery.measures.similarity import Similarity
from surgery.model.pipeline import LiveModel

Masks = Sequence[torch.Tensor | None]


@dataclass(frozen=True)
class Sibling:
    """Another memory of the corpus: what an attacker may teach who does not have the image itself.

    Attributes:
        image: uint8 [3, height, width].
    """

    prompt: str
    image: torch.Tensor


@dataclass(frozen=True)
class Target:
    """An image under attack, and what an attacker knows about it.

    Attributes:
        image: what is attacked for, uint8 [3, height, width].
        compared: what drawn pictures are compared with, of the same shape.
        masks: under which masks [height, width] they are compared; None for everywhere.
        prompt: its caption; controls have captions of their own too.
        seed: of all chance in the attack. Each image has its own, the same on every model; the next 99 are
            its restarts'.
        others: unrelated captions.
        near: captions of the same corpus, where the image's own is left out.
        siblings: other memories of the corpus, never the image itself.
        donor: the model whose parts `graft` puts into the attacked one; None where there is none.
    """

    image: torch.Tensor
    compared: torch.Tensor
    masks: tuple[torch.Tensor | None, ...]
    prompt: str
    seed: int
    others: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    siblings: tuple[Sibling, ...] = ()
    donor: LiveModel | None = None


@dataclass(frozen=True)
class Point:
    """One point of an attack's curve.

    Attributes:
        effort: what was spent so far: gradient steps, fine-tuning steps, prompts.
        draw: (places of variants, picture seeds) -> uint8 [places, seeds, 3, height, width]. To be called
            before the next point is asked for, not later; twice with the same arguments gives the same.
    """

    effort: int
    draw: Callable[[Sequence[int], Sequence[int]], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One way to get an image out of a model.

    Attributes:
        name: of the attack, as the registry lists it.
        passes_edit: whether the attacker must go through the text conditioning, which an edit of
            cross-attention closes without touching the rest of the weights.
        learns: whether the image itself is taught to the weights; see the module.
        informative: whether the attack has a say in the verdict; else it only shows where a memory sits.
        wants_siblings: whether it uses the other memories; looking them up costs time.
        selection_seeds: picture seeds that choose the point and the variant.
        scored_seeds: picture seeds that are scored, none of them among the former.
    """

    name: ClassVar[str]
    passes_edit: ClassVar[bool]
    learns: ClassVar[bool] = False
    informative: ClassVar[bool] = True
    wants_siblings: ClassVar[bool] = False

    selection_seeds: tuple[int, ...]
    scored_seeds: tuple[int, ...]

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: AuditSettings) -> Self:
        """The attack as the settings of an audit ask for it."""

    @abstractmethod
    def variants(self, target: Target) -> tuple[str, ...]:
        """What each variant is, in the attack's own words; without the words of any prompt."""

    @property
    @abstractmethod
    def effort(self) -> int:
        """What the whole attack spends: the number beside its name in a verdict."""

    @property
    def shortfall(self) -> str:
        """Why the attack is weaker than its effort says; "" where it is not."""
        return ""

    @abstractmethod
    def cost(self) -> int:
        """The sample-forwards of attacking one image on one model, with all pictures drawn, at most."""

    @abstractmethod
    def draw(self, model: LiveModel, target: Target) -> Iterator[Point]:
        """Attack one image on one model, which is left as it was found also when the iteration is given up.

        Yields:
            The points of the curve, rising; the same for every image.

        Raises:
            SurgeryError: the attack cannot be made on this model.
        """

    def run(
        self, model: LiveModel, target: Target, similarity: Similarity, enough: float = math.inf
    ) -> tuple[AttackUnit, Pictures]:
        """Attack one image on one model, and score it.

        Args:
            enough: the attack ends after the point of the curve at which its score is so high under every
                mask; an attack that learns never does.

        Returns:
            The unit, and `attacked`: the scored pictures that were best under the first mask.
        """
        rooms = [_UnderMask(mask) for mask in target.masks]
        steps: list[int] = []
        for point in self.draw(model, target):
            steps.append(point.effort)
            if self.learns:
                self._take_all(point, len(self.variants(target)), target, rooms, similarity)
            else:
                self._take_best(point, len(self.variants(target)), target, rooms, similarity)
                if all(percentile(room.scored[-1]) >= enough for room in rooms):
                    break
        for room in rooms:
            room.finish(self.learns)
        first = rooms[0]
        assert first.pictures is not None, f"the attack {self.name} drew nothing"
        unit = AttackUnit(
            steps=tuple(steps),
            variants=self.variants(target),
            selection=tuple(tuple(room.selection) for room in rooms),
            chosen=tuple(room.chosen for room in rooms),
            scored=tuple(tuple(room.scored) for room in rooms),
            highest=tuple(room.highest for room in rooms),
        )
        return unit, {"attacked": first.pictures[:PICTURES_KEPT]}

    def _take_best(
        self, point: Point, variants: int, target: Target, rooms: list[_UnderMask], similarity: Similarity
    ) -> None:
        drawn = point.draw(range(variants), self.selection_seeds)
        again: dict[int, torch.Tensor] = {}  # variant -> its scored pictures, drawn once for all masks
        for room in rooms:
            winner = room.select(drawn, target, similarity)
            if winner is None:
                continue
            if winner not in again:
                again[winner] = point.draw([winner], self.scored_seeds)[0]
            values = _alike(again[winner], target, similarity, room.mask)
            room.take(values, again[winner])

    def _take_all(
        self, point: Point, variants: int, target: Target, rooms: list[_UnderMask], similarity: Similarity
    ) -> None:
        drawn = point.draw(range(variants), self.selection_seeds)
        again = point.draw(range(variants), self.scored_seeds)
        for room in rooms:
            room.select(drawn, target, similarity)
            room.curves.append([_alike(one, target, similarity, room.mask) for one in again])
            room.drawn = again


@dataclass
class _UnderMask:
    """What one attack reached under one mask, while it runs."""

    mask: torch.Tensor | None
    selection: list[tuple[tuple[float, ...], ...]] = field(default_factory=list)  # [point][variant][seed]
    chosen: tuple[int, int] = (0, 0)  # point, variant
    scored: list[tuple[float, ...]] = field(default_factory=list)
    highest: float = -math.inf
    pictures: torch.Tensor | None = None
    curves: list[list[tuple[float, ...]]] = field(default_factory=list)  # [point][variant][seed]
    drawn: torch.Tensor | None = None
    best: float = -math.inf

    def select(self, drawn: torch.Tensor, target: Target, similarity: Similarity) -> int | None:
        """Book a point's selection pictures; the variant that is better than all before, or None."""
        values = tuple(_alike(one, target, similarity, self.mask) for one in drawn)
        self.selection.append(values)
        self.highest = max(self.highest, *(max(seeds) for seeds in values))
        percentiles = [percentile(seeds) for seeds in values]
        winner = percentiles.index(max(percentiles))
        if percentiles[winner] <= self.best:
            return None
        self.best, self.chosen = percentiles[winner], (len(self.selection) - 1, winner)
        return winner

    def take(self, values: tuple[float, ...], pictures: torch.Tensor) -> None:
        """Keep the scored pictures of what is the best so far."""
        self.scored, self.pictures = [values], pictures
        self.highest = max(self.highest, *values)

    def finish(self, learns: bool) -> None:
        """For attacks that learn: the variant that was the soonest, on the selection seeds."""
        if not learns:
            return
        means = [
            mean(percentile(point[variant]) for point in self.selection)
            for variant in range(len(self.selection[0]))
        ]
        winner = means.index(max(means))
        assert self.drawn is not None
        self.chosen = (len(self.selection) - 1, winner)
        self.scored = [point[winner] for point in self.curves]
        self.pictures = self.drawn[winner]
        self.highest = max(self.highest, *(max(seeds) for point in self.curves for seeds in point))


def _alike(
    pictures: torch.Tensor, target: Target, similarity: Similarity, mask: torch.Tensor | None
) -> tuple[float, ...]:
    return tuple(similarities_to(pictures, target.compared, similarity, mask).tolist())
