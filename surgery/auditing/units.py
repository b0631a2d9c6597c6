"""What one finished unit of work found: numbers only, each a small dataclass.

A unit's pictures stay in the store, under the unit's key: those of a large corpus would fill the memory, and
nothing but the page and the next stage looks at them (`Store.pictures`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self


@dataclass(frozen=True)
class Cost:
    """What a unit took: UNet sample-forwards, and seconds."""

    sample_forwards: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What every unit has.

    Attributes:
        cost: what it took when it was measured, be it in an earlier run.
    """

    cost: Cost = Cost()

    def as_json(self) -> dict[str, Any]:
        """The unit as the store keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The unit that `as_json` wrote."""
        values = {name: _tuples(value) for name, value in document.items()}
        return cls(**{**values, "cost": Cost(**document["cost"])})


@dataclass(frozen=True)
class DrawnSeeds:
    """How alike one model's pictures of a prompt are.

    Attributes:
        to_target: similarity of each seed's picture to the target, in the order of the seeds.
        to_each_other: median similarity over the pairs of seeds.
    """

    to_target: tuple[float, ...]
    to_each_other: float

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` wrote."""
        return cls(tuple(document["to_target"]), document["to_each_other"])


@dataclass(frozen=True, kw_only=True)
class ReplicationUnit(Unit):
    """One prompt drawn by both models at equal seeds. Pictures: `target` (one), `before`, `after`.

    Attributes:
        before, after: of SOURCE and of PATCHED.
        equal_seeds: similarity of the two models' pictures, seed by seed.
        stand_in: whether the target is a picture of SOURCE, for want of the training image.
    """

    before: DrawnSeeds
    after: DrawnSeeds
    equal_seeds: tuple[float, ...]
    stand_in: bool

    @staticmethod
    def key(index: int) -> str:
        """Where the unit of subject `index` is kept."""
        return f"replication-{index}"

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The unit that `as_json` wrote."""
        return cls(
            before=DrawnSeeds.from_json(document["before"]),
            after=DrawnSeeds.from_json(document["after"]),
            equal_seeds=tuple(document["equal_seeds"]),
            stand_in=document["stand_in"],
            cost=Cost(**document["cost"]),
        )


@dataclass(frozen=True, kw_only=True)
class OrdinaryUnit(Unit):
    """What the patch changed on one ordinary prompt. Pictures: `before`, `after`, at equal seeds.

    Attributes:
        change: c(y) of `surgery.auditing.measures.utility`: 1 is what another seed changes.
        timesteps: where it was measured, from noisy to clean; `by_timestep` is the change at each.
        equal_seeds: similarity of the two models' pictures, seed by seed.
        other_seed: median similarity of SOURCE's own pictures; None where there is only one.
    """

    change: float
    timesteps: tuple[int, ...]
    by_timestep: tuple[float, ...]
    equal_seeds: tuple[float, ...]
    other_seed: float | None

    @staticmethod
    def key(index: int) -> str:
        """Where the unit of ordinary prompt `index` is kept."""
        return f"ordinary-{index}"


@dataclass(frozen=True, kw_only=True)
class ControlPictureUnit(Unit):
    """A control image that SOURCE made. Pictures: `control` (one). It has no numbers but its cost."""

    @staticmethod
    def key(index: int) -> str:
        """Where control image `index` is kept."""
        return f"made-{index}"


@dataclass(frozen=True, kw_only=True)
class AttackUnit(Unit):
    """One image attacked on one model. Pictures: `attacked`, the best restart's at its best point.

    Attributes:
        steps: the points of the curve, as lengths of the attack.
        starts: where each restart began, in the attack's own words.
        similarities: [mask][point][restart][seed], to the image under attack.
        pictures_step: the point at which the best restart was best under the first mask.
    """

    steps: tuple[int, ...]
    starts: tuple[str, ...]
    similarities: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]
    pictures_step: int

    @staticmethod
    def key(attack: str, against: str, index: int) -> str:
        """Where the attack of that name is kept; `against` "control", "patched" or "source"."""
        return f"{attack}-{against}-{index}"

    def medians(self, mask: int = 0) -> list[list[float]]:
        """The median similarity over seeds: [point][restart]."""
        return [[median(seeds) for seeds in restarts] for restarts in self.similarities[mask]]

    def curve(self, mask: int = 0) -> list[float]:
        """The best restart's median at each point: whoever attacks takes the start that worked best."""
        return [max(restarts) for restarts in self.medians(mask)]

    def score(self, mask: int = 0) -> float:
        """The best point of the curve: whoever attacks keeps what worked best, not what came last."""
        return max(self.curve(mask))


@dataclass(frozen=True)
class AttackPair:
    """The attack on one subject's image on both models; None where the budget ended before."""

    source: AttackUnit | None = None
    patched: AttackUnit | None = None

    @property
    def made(self) -> list[AttackUnit]:
        """Those that were made."""
        return [unit for unit in (self.patched, self.source) if unit is not None]


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at any depth."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
