"""Every setting of localization; published defaults (NeMo, arXiv 2406.02366) unless said otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from surgery.denoisers import BLOCKS, PROJECTIONS, PUBLISHED_BLOCKS
from surgery.errors import UsageError

CRITERIA = ("seeds-diverge", "noise-changed")
STRATEGIES = ("fast", "reference")
# These decide which numbers come out of the denoiser, so a calibration holds only where they agree.
CALIBRATION_FIELDS = ("seeds", "seed", "inference_steps", "step_index", "guidance", "projection")
CONFIRMATION_FIELDS = ("confirm_seeds", "confirm_seed")


@dataclass(frozen=True)
class LocalizeSettings:
    """What `localize` does; two runs with equal settings on one model find the same neurons.

    Attributes:
        criterion: when a memory counts as broken: "seeds-diverge" (the ablated noise differences of different
            seeds no longer resemble each other; our default) or "noise-changed" (the published one: no
            ablated noise difference resembles the unablated one of the same seed).
        strategy: "fast", or "reference" for the published loop step by step.
        seeds: S, how many latents a prompt is judged on.
        seed: the generator seed that these latents are drawn with, in one call.
        cutoff: standard deviations above the ordinary mean for every threshold; None takes the calibration's,
            or each criterion's own (1 for noise-changed as published, 2 for seeds-diverge).
        gate_threshold, selection_threshold, refinement_threshold: scores; None takes the calibrated
            threshold.
        relative_refinement: where set, the refinement threshold is this factor times the score that the
            initial set reached.
        theta_start, theta_step, theta_minimum: the z-score threshold of the initial selection and its
            descent.
        use_theta: select by z-score at all.
        top_k_start, top_k_maximum: how many of the most active neurons of each layer are added, first and at
            most.
        use_top_k: add the most active neurons at all.
        scaling_factor: what ablated outputs are multiplied with; 0 switches them off.
        guidance: classifier-free guidance in the scores; None (the default) scores the conditional
            prediction.
        inference_steps: the scheduler's number of steps, which fixes its timesteps.
        step_index: which of the timesteps is scored; 1 is the second, as in the published code.
        projection: "value" layers, or "key" layers instead.
        blocks: which blocks of the denoiser to search.
        confirm_seeds: fresh seeds that the refined set is checked on; 0 leaves the check out.
        confirm_seed: the generator seed of these latents; must differ from `seed`.
        include_unresolved: let the initial sets of unresolved prompts into the corpus set. They are refined
            only then.
        spot_checks: let the fast strategy re-check a sample of the answers that it inferred.
        batch_size: the most samples in one UNet call. Does not change the result.
    """

    criterion: str = "seeds-diverge"
    strategy: str = "fast"
    seeds: int = 10
    seed: int = 0
    cutoff: float | None = None
    gate_threshold: float | None = None
    selection_threshold: float | None = None
    refinement_threshold: float | None = None
    relative_refinement: float | None = None
    theta_start: float = 5.0
    theta_step: float = 0.25
    theta_minimum: float = 1.0
    use_theta: bool = True
    top_k_start: int = 0
    top_k_maximum: int = 1280
    use_top_k: bool = True
    scaling_factor: float = 0.0
    guidance: float | None = None
    inference_steps: int = 50
    step_index: int = 1
    projection: str = "value"
    blocks: tuple[str, ...] = PUBLISHED_BLOCKS
    confirm_seeds: int = 10
    confirm_seed: int = 1_000_003
    include_unresolved: bool = False
    spot_checks: bool = True
    batch_size: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        _among("criterion", [self.criterion], CRITERIA)
        _among("strategy", [self.strategy], STRATEGIES)
        _among("projection", [self.projection], PROJECTIONS)
        _among("blocks", self.blocks, BLOCKS)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(_option(field.name), f"{value} is not a number", "give a finite number")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(_option(name), f"{value} is less than {least}", f"give at least {least}")
        if not self.blocks:
            raise UsageError("blocks", "none is named", f"name some of {', '.join(BLOCKS)}")
        if self.theta_step <= 0:
            raise UsageError("theta-step", f"{self.theta_step} does not descend", "give a step above 0")
        if self.theta_start < self.theta_minimum:
            raise UsageError(
                "theta-start", f"{self.theta_start} lies below the minimum {self.theta_minimum}", "raise it"
            )
        if not (self.use_theta or self.use_top_k):
            raise UsageError(
                "no-theta, no-top-k", "together leave no way to select neurons", "drop one of them"
            )
        if self.confirm_seeds and self.confirm_seed == self.seed:
            raise UsageError(
                "confirm-seed", f"{self.seed} is the seed of the search", "fresh seeds need another one"
            )
        if self.confirm_seeds == 1:
            raise UsageError(
                "confirm-seeds", "one seed has no pair to be compared with", "give 0, or at least 2"
            )

    def as_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**asdict(self), "blocks": list(self.blocks)}

    def for_calibration(self) -> dict[str, Any]:
        """The settings that a calibration depends on."""
        return {name: getattr(self, name) for name in (*CALIBRATION_FIELDS, *CONFIRMATION_FIELDS)}


_LEAST = {
    "seeds": 2,
    "seed": 0,
    "confirm_seeds": 0,
    "confirm_seed": 0,
    "theta_minimum": 0.0,
    "top_k_start": 0,
    "top_k_maximum": 1,
    "inference_steps": 1,
    "step_index": 0,
    "batch_size": 1,
    "relative_refinement": 0.0,
}


def _option(name: str) -> str:
    return name.replace("_", "-")


def _among(name: str, values: Iterable[str], allowed: Iterable[str]) -> None:
    for value in values:
        if value not in allowed:
            raise UsageError(name, f"there is no {value!r}", f"choose from {', '.join(allowed)}")
