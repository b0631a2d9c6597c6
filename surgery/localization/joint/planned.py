"""What a plan says: the set, the frontier it was taken from, and who needs which neuron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Neuron = tuple[str, int]


@dataclass(frozen=True)
class FrontierPoint:
    """One mask: how many neurons, how many prompts it breaks at least, what it does to ordinary prompts.

    Attributes:
        change: in seeds (1: as much as another seed); None where nothing was estimated.
    """

    neurons: int
    prompts: int
    change: float | None


@dataclass(frozen=True)
class Plan:
    """What `surgery plan` says.

    Attributes:
        chosen: the set of the file: what `patch` would zero.
        frontier: from nothing to every prompt that can be broken.
        needed_by: neuron -> how many prompts need it; every neuron of the set, layers in its order.
        memorized: how many prompts passed the gate.
        left: the captions of those whose memory the set leaves.
        joint: whether the set was searched jointly.
    """

    chosen: FrontierPoint
    frontier: tuple[FrontierPoint, ...]
    needed_by: Mapping[Neuron, int]
    memorized: int
    left: tuple[str, ...]
    joint: bool

    def as_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; it quotes the prompts that are left."""
        rows: dict[str, dict[str, int]] = {}
        for (layer, row), count in self.needed_by.items():
            rows.setdefault(layer, {})[str(row)] = count
        return {
            "chosen": vars(self.chosen),
            "frontier": [vars(point) for point in self.frontier],
            "needed_by": rows,
            "memorized": self.memorized,
            "left": list(self.left),
            "joint": self.joint,
        }
