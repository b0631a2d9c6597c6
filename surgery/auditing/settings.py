"""Everything that an audit's numbers depend on, in one frozen object that is written into `audit.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.auditing.attack.embedding import Attack, restarts_of
from surgery.auditing.judgement.statistics import CORRECTIONS
from surgery.auditing.measures.replication import Drawing
from surgery.errors import UsageError

GATES = ("replication", "attack")
JUDGING = ("tolerance", "alpha", "correction")  # what may change without measuring anew


@dataclass(frozen=True)
class AuditSettings:
    """The settings of one audit.

    Attributes:
        seeds: fresh seeds per prompt; they count up from `first_seed`, far from those of localization.
        steps, guidance: of the sampler, for replication and for ordinary prompts.
        similarity: name of the measure; with `sscd` (a file, or "immaculate") SSCD is used instead.
        threshold: similarity at or above which a picture is a replica; None for the measure's own.
        raw_images: compare with the training image itself, not with its image through the autoencoder.
        tolerance: the largest share of seeds that may replicate before a prompt `still replicates`.
        ordinary: how many ordinary prompts are looked at; `ordinary_seeds` seeds for their predictions,
            `ordinary_pictures` of these drawn as pictures; `timesteps` along the path.
        attack: whether the embedding attack is run; `curve`, `restarts`, `attack_seeds`, `attack_batch`,
            `learning_rate`, `attack_guidance` as in `surgery.auditing.attack.embedding.Attack`.
        controls: how many control images are made where none are given.
        alpha, correction: level of the tests, and how many tests at once are accounted for.
        batch_size: samples per UNet call, at most; no result depends on it beyond rounding.
    """

    seeds: int = 10
    first_seed: int = 2_000_000
    steps: int = 50
    guidance: float = 7.5
    similarity: str = "edges"
    sscd: str | None = None
    threshold: float | None = None
    raw_images: bool = False
    tolerance: float = 0.05
    ordinary: int = 32
    ordinary_seeds: int = 4
    ordinary_pictures: int = 2
    timesteps: int = 8
    attack: bool = False
    curve: tuple[int, ...] = (0, 10, 25, 50)
    restarts: int = 3
    attack_seeds: int = 4
    attack_batch: int = 8
    learning_rate: float = 0.1
    attack_guidance: float = 1.0
    controls: int = 24
    alpha: float = 0.05
    correction: str = "benjamini-hochberg"
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "restarts", "attack_seeds", "attack_batch", "batch_size", "timesteps"):
            if getattr(self, name) < 1:
                raise UsageError(name.replace("_", "-"), f"{getattr(self, name)} is less than 1", "give more")
        for name, least in (("seeds", 2), ("ordinary_seeds", 2), ("ordinary", 0), ("ordinary_pictures", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    name.replace("_", "-"), f"{getattr(self, name)} is too few", f"give at least {least}"
                )
        if self.ordinary_pictures > self.ordinary_seeds:
            raise UsageError("ordinary-pictures", "are more than the ordinary seeds", "give fewer")
        if not 0 <= self.tolerance < 1:
            raise UsageError("tolerance", f"{self.tolerance} is not a share below 1", "give 0 to 0.99")
        if not 0 < self.alpha < 0.5:
            raise UsageError("alpha", f"{self.alpha} is no level of a test", "give a number such as 0.05")
        if self.correction not in CORRECTIONS:
            raise UsageError(
                self.correction, "is not a known correction", f"choose from {', '.join(CORRECTIONS)}"
            )
        self.attack_settings()

    @property
    def audit_seeds(self) -> list[int]:
        """The seeds of replication."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    def drawing(self) -> Drawing:
        """How pictures of prompts are drawn."""
        return Drawing(self.steps, self.guidance, self.batch_size)

    def attack_drawing(self) -> Drawing:
        """How pictures of attacked embeddings are drawn."""
        return Drawing(self.steps, self.attack_guidance, self.batch_size)

    def attack_settings(self) -> Attack:
        """The attack as `surgery.auditing.attack.embedding` takes it."""
        return Attack(
            curve=tuple(self.curve),
            starts=restarts_of(self.restarts),
            learning_rate=self.learning_rate,
            batch=self.attack_batch,
            picture_seeds=tuple(range(self.first_seed, self.first_seed + self.attack_seeds)),
            guidance=self.attack_guidance,
            batch_size=self.batch_size * 2,
        )

    def as_json(self) -> dict[str, Any]:
        """Every setting by name."""
        return {**asdict(self), "curve": list(self.curve)}

    def measured_with(self) -> dict[str, Any]:
        """The settings that measurements depend on: a resumed audit must agree in all of them."""
        return {name: value for name, value in self.as_json().items() if name not in JUDGING}
