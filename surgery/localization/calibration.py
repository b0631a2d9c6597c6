"""Calibration: what ordinary, unmemorized prompts look like in this model.

1. Activation statistics of every value layer over all ordinary prompts (no denoiser pass).
2. For a sample of them, the noise differences of S seeds; from these the distributions of `pairs` (MS-SSIM of
   two seeds of one prompt), `prompts` (its mean over a prompt's pairs), `same_seed` (MS-SSIM of two different
   prompts at one seed: the floor that `noise-changed` cannot get under) and `noise_magnitude` (the detector
   of Wen et al., ICLR 2024).
3. The same two score distributions for the latents of the confirmation (`confirm_pairs`, `confirm_prompts`):
   every set of latents has a level of its own, so that a score is only comparable on the latents it was
   calibrated on.
4. A threshold is mean + cutoff x standard deviation of the criterion's distribution: `pairs` and 1 for
   `noise-changed` (as published), `prompts` and 2 for `seeds-diverge`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from surgery.denoisers import BLOCKS
from surgery.errors import UsageError
from surgery.localization.activations import Moments, activations
from surgery.localization.criteria import CRITERIA_BY_NAME, mean_pair
from surgery.localization.detectors import Magnitude
from surgery.localization.ms_ssim import ms_ssim, pairwise_scores, window_of
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, noise_differences, seeded_latents
from surgery.model.pipeline import LiveModel
from surgery.model.value_layers import denoiser_fingerprint, value_layers
from surgery.versions import library_versions

TEXT_BATCH = 64
DEFAULT_SCORE_PROMPTS = 64

Progress = Callable[[str, int, int], None]


class Calibrated(Protocol):
    """What has a threshold: a criterion or a detector."""

    distribution: str
    cutoff: float


@dataclass(frozen=True)
class Distribution:
    """Mean, standard deviation (n - 1) and number of some scores."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """The distribution of at least two values."""
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(mean, math.sqrt(squares / (len(values) - 1)), len(values))

    def cutoff(self, deviations: float) -> float:
        """mean + deviations x std."""
        return self.mean + deviations * self.std


@dataclass(frozen=True)
class Calibration:
    """Statistics of one model over its ordinary prompts.

    Attributes:
        mean, std: layer name -> float32 [rows], activation statistics of every value (or key) layer.
        scores: "pairs", "prompts", "same_seed", "noise_magnitude" -> `Distribution`.
        prompts: how many ordinary prompts the activation statistics cover.
        fingerprint: of the model's value layers.
        made_with: the settings the numbers depend on (`LocalizeSettings.for_calibration`).
        source: where the ordinary prompts came from, in words.
        versions: library versions.
        cutoff: deviations for every threshold; None takes each criterion's own.
    """

    mean: Mapping[str, torch.Tensor]
    std: Mapping[str, torch.Tensor]
    scores: Mapping[str, Distribution]
    prompts: int
    fingerprint: Mapping[str, Any]
    made_with: Mapping[str, Any]
    source: str
    versions: Mapping[str, str]
    cutoff: float | None = None

    def threshold(self, criterion: Calibrated, on_fresh_seeds: bool = False) -> float:
        """The calibrated threshold of a criterion or detector, for the search's latents or the
        confirmation's.
        """
        deviations = criterion.cutoff if self.cutoff is None else self.cutoff
        name = criterion.distribution
        return self.scores[f"confirm_{name}" if on_fresh_seeds else name].cutoff(deviations)

    def thresholds(self) -> dict[str, float]:
        """The threshold of every criterion and detector, by its name."""
        judges: list[Any] = [*CRITERIA_BY_NAME.values(), Magnitude]
        return {judge.name: float(f"{self.threshold(judge):.6g}") for judge in judges}

    def summary(self) -> dict[str, Any]:
        """What `neurons.json` records of the calibration: everything but the statistics of single neurons."""
        return {
            "prompts": self.prompts,
            "source": self.source,
            "cutoff": self.cutoff,
            "made_with": dict(self.made_with),
            "scores": {
                name: {"mean": round(one.mean, 6), "std": round(one.std, 6), "count": one.count}
                for name, one in self.scores.items()
            },
        }


def calibrate(
    model: LiveModel,
    prompts: Sequence[str],
    settings: LocalizeSettings | None = None,
    score_prompts: int = DEFAULT_SCORE_PROMPTS,
    source: str = "given prompts",
    cutoff: float | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measure what ordinary prompts look like in a model.

    Args:
        model: the live model.
        prompts: ordinary captions, at least two; repeated ones count once.
        settings: seeds, timestep, guidance and projection are taken from here.
        score_prompts: how many of the prompts, evenly spread, run through the denoiser.
        source: where the prompts came from, for the record.
        cutoff: deviations above the mean for every threshold; None takes each criterion's own (1 or 2).
        progress: called with (what, done, total).

    Raises:
        UsageError: there are fewer than two different prompts, or a number is out of range.
    """
    settings = settings or LocalizeSettings()
    report = progress or (lambda what, done, total: None)
    unique = list(dict.fromkeys(prompts))
    if len(unique) < 2:
        raise UsageError(
            "ordinary prompts", f"{len(unique)} different one(s)", "a standard deviation needs at least 2"
        )
    if score_prompts < 2:
        raise UsageError("score-prompts", f"{score_prompts} is less than 2", "give at least 2")
    if cutoff is not None and not math.isfinite(cutoff):
        raise UsageError("cutoff", f"{cutoff} is not a number", "give a finite number")
    layers = value_layers(model.denoiser, BLOCKS, settings.projection)
    moments = Moments()
    for start in range(0, len(unique), TEXT_BATCH):
        batch = unique[start : start + TEXT_BATCH]
        moments.update(activations(layers, encode_prompts(model, batch)))
        report("activations", start + len(batch), len(unique))
    return Calibration(
        mean={name: value.float() for name, value in moments.mean.items()},
        std={name: value.float() for name, value in moments.std().items()},
        scores=_score_distributions(model, _evenly(unique, score_prompts), settings, report),
        prompts=moments.count,
        fingerprint=denoiser_fingerprint(model.denoiser),
        made_with=settings.for_calibration(),
        source=source,
        versions=library_versions(),
        cutoff=cutoff,
    )


def _evenly(prompts: list[str], count: int) -> list[str]:
    count = min(count, len(prompts))
    return [prompts[index * len(prompts) // count] for index in range(count)]


def _score_distributions(
    model: LiveModel, prompts: list[str], settings: LocalizeSettings, report: Progress
) -> dict[str, Distribution]:
    predictor = predictor_of(model, settings)
    latents = seeded_latents(model, settings.seed, settings.seeds)
    scores = _scores_on(predictor, latents, prompts, "scores", report)
    if settings.confirm_seeds:
        fresh = seeded_latents(model, settings.confirm_seed, settings.confirm_seeds)
        more = _scores_on(predictor, fresh, prompts, "scores on fresh seeds", report)
        scores |= {f"confirm_{name}": more[name] for name in ("pairs", "prompts")}
    return scores


def _scores_on(
    predictor: NoisePredictor, latents: torch.Tensor, prompts: list[str], what: str, report: Progress
) -> dict[str, Distribution]:
    magnitude = Magnitude(predictor, latents)
    window = window_of(*latents.shape[-2:])
    found: dict[str, list[float]] = {"pairs": [], "prompts": [], "same_seed": [], "noise_magnitude": []}
    upper = torch.triu_indices(len(latents), len(latents), offset=1)
    before: torch.Tensor | None = None
    for position, prompt in enumerate(prompts):
        prediction = predictor.predict(latents, encode_prompts(predictor.model, [prompt]))
        difference = noise_differences(prediction, latents)
        scores = pairwise_scores(difference, window)
        found["pairs"].extend(scores[upper[0], upper[1]].tolist())
        found["prompts"].append(mean_pair(scores))
        found["noise_magnitude"].append(magnitude.score(prediction))
        if before is not None:
            found["same_seed"].extend(ms_ssim(before, difference, window).tolist())
        before = difference
        report(what, position + 1, len(prompts))
    return {name: Distribution.of(values) for name, values in found.items()}


def predictor_of(model: LiveModel, settings: LocalizeSettings, **more: Any) -> NoisePredictor:
    """The noise predictor that the settings describe."""
    return NoisePredictor(
        model,
        inference_steps=settings.inference_steps,
        step_index=settings.step_index,
        guidance=settings.guidance,
        factor=settings.scaling_factor,
        batch_size=settings.batch_size,
        **more,
    )
