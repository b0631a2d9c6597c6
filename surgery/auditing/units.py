"""What one finished unit of work found: numbers only, each a small dataclass.

A unit's pictures stay in the store, under the unit's key: those of a large corpus would fill the memory, and
nothing but the page and the next stage looks at them (`Store.pictures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Self

ATTACKERS_SHARE = 0.9  # an attacker needs one picture: the 90th percentile, not the median


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
class CanaryUnit(Unit):
    """The teaching of the canaries; the taught weights are kept under the same key.

    Attributes:
        steps: of teaching.
        drawn: for each canary, the share of its caption's pictures that are replicas of it.
    """

    steps: int
    drawn: tuple[float, ...]

    @staticmethod
    def key() -> str:
        """Where the unit is kept."""
        return "canaries"


@dataclass(frozen=True, kw_only=True)
class AttackUnit(Unit):
    """One image attacked on one model. Pictures: `attacked`, the best scored ones under the first mask.

    Attributes:
        steps: the points of the curve, as effort spent.
        variants: what was drawn at each point, in the attack's own words.
        selection: similarities to the image [mask][point][variant][selection seed].
        chosen: for each mask the (point, variant) that was best on the selection seeds.
        scored: similarities [mask][point][scored seed]: at the chosen point alone, or at every point for an
            attack that learns.
        highest: for each mask the most alike of all pictures drawn.
    """

    steps: tuple[int, ...]
    variants: tuple[str, ...]
    selection: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]
    chosen: tuple[tuple[int, int], ...]
    scored: tuple[tuple[tuple[float, ...], ...], ...]
    highest: tuple[float, ...]

    @staticmethod
    def key(attack: str, against: str, index: int) -> str:
        """Where the attack of that name is kept; `against` "control", "patched", "source" and the like."""
        return f"{attack}-{against}-{index}"

    def by_variant(self, mask: int = 0) -> list[list[float]]:
        """The 90th percentile over the selection seeds: [point][variant]."""
        return [[percentile(seeds) for seeds in variants] for variants in self.selection[mask]]

    def curve(self, mask: int = 0) -> list[float]:
        """The best variant's percentile at each point: whoever attacks takes what works best."""
        return [max(variants) for variants in self.by_variant(mask)]

    def score(self, mask: int = 0) -> float:
        """What the image is judged by; see `surgery.auditing.attack.protocol`."""
        return mean(percentile(seeds) for seeds in self.scored[mask])


@dataclass(frozen=True)
class AttackPair:
    """The attack on one subject's image on SOURCE, PATCHED and the twin; None where it was not made."""

    source: AttackUnit | None = None
    patched: AttackUnit | None = None
    twin: AttackUnit | None = None

    @property
    def made(self) -> list[AttackUnit]:
        """Those that were made."""
        return [unit for unit in (self.patched, self.source, self.twin) if unit is not None]


def percentile(values: Sequence[float], share: float = ATTACKERS_SHARE) -> float:
    """The value that a share of the values do not exceed, linear between neighbors."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at any depth."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
