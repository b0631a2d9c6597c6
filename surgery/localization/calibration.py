"""Calibration: what ordinary, unmemorized prompts look like in this model.

1. Activation statistics of every value layer over all ordinary prompts (no denoiser pass).
2. For a sample of them, the noise predictions of S seeds; from these the distributions that each criterion
   and detector asks for (`Detector.calibration_values`): `pairs`, `prompts`, `same_seed`, `noise_magnitude`.
3. The criteria's own distributions once more for the latents of the confirmation (`confirm_pairs`,
   `confirm_prompts`): every set of latents has a level of its own, so that a score is only comparable on the
   latents it was calibrated on.
4. A threshold is mean + cutoff x standard deviation of the criterion's own distribution.
5. How much of a score the first few seeds tell, for `scan` (`surgery.localization.discovery.looks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from surgery.denoisers import BLOCKS
from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.activations import Moments, activations
from surgery.localization.criteria import Criterion, Detector
from surgery.localization.discovery.looks import Looks, LooksCalibration
from surgery.localization.distribution import Distribution
from surgery.localization.predictions import Predictions
from surgery.localization.settings import SCORE_PROMPTS, LocalizeSettings
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import LiveModel
from surgery.model.sketches import ShortSampler
from surgery.model.value_layers import denoiser_fingerprint, value_layers
from surgery.versions import library_versions

TEXT_BATCH = 64
# The file lists these first and in this order, whatever the order in the registry.
LISTED_FIRST = (
    "pairs", "prompts", "same_seed", "noise_magnitude", "upper_seeds", "best_tile", "seed_matches",
    "agreeing_seeds", "own_replica", "strangers_image",
)  # fmt: skip

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Calibration:
    """Statistics of one model over its ordinary prompts.

    Attributes:
        mean, std: layer name -> float32 [rows], activation statistics of every value (or key) layer.
        scores: name -> `Distribution`, of what the criteria and detectors asked for.
        prompts: how many ordinary prompts the activation statistics cover.
        fingerprint: of the model's value layers.
        made_with: the settings the numbers depend on (`LocalizeSettings.for_calibration`).
        source: where the ordinary prompts came from, in words.
        versions: library versions.
        cutoff: deviations for every threshold; None takes each criterion's own.
        looks: what few seeds tell; None where the calibration has too few prompts or seeds to say.
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
    looks: Looks | None = None

    def threshold(self, detector: Detector, on_fresh_seeds: bool = False) -> float:
        """The calibrated threshold of a criterion or detector.

        `on_fresh_seeds` asks for that on the confirmation's latents instead of the search's.

        Raises:
            UsageError: the calibration was made without it.
        """
        deviations = detector.cutoff if self.cutoff is None else self.cutoff
        name = f"confirm_{detector.distribution}" if on_fresh_seeds else detector.distribution
        if name not in self.scores:
            raise UsageError(
                "calibration", f"has no distribution {name!r}", "calibrate the model again with this version"
            )
        return self.scores[name].cutoff(deviations)

    def criterion(self, name: str, on_fresh_seeds: bool = False) -> Criterion:
        """The criterion of that name, told what ordinary prompts look like on the latents it will judge."""
        return self.told(registry.criterion(name), on_fresh_seeds)

    def told(self, criterion: Criterion, on_fresh_seeds: bool = False) -> Criterion:
        """`Criterion.calibrated` by these distributions: those of the search's latents, or of fresh ones."""
        prefix = "confirm_" if on_fresh_seeds else ""
        ordinary = {
            name.removeprefix(prefix): one for name, one in self.scores.items() if name.startswith(prefix)
        }
        return criterion.calibrated(ordinary, self.cutoff)

    def thresholds(self) -> dict[str, float]:
        """The threshold of every criterion and detector that is calibrated, by its name."""
        detectors = {name: registry.detector(name) for name in registry.detector_places()}
        return {
            name: float(f"{self.threshold(one):.6g}")
            for name, one in detectors.items()
            if one.distribution in self.scores
        }

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
    score_prompts: int = SCORE_PROMPTS,
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
    sample = _evenly(unique, score_prompts)
    looks = LooksCalibration(len(sample))
    scores = _score_distributions(model, sample, settings, report, looks)
    return Calibration(
        mean={name: value.float() for name, value in moments.mean.items()},
        std={name: value.float() for name, value in moments.std().items()},
        scores=scores,
        prompts=moments.count,
        fingerprint=denoiser_fingerprint(model.denoiser),
        made_with=settings.for_calibration(),
        source=source,
        versions=library_versions(),
        cutoff=cutoff,
        looks=looks.result(),
    )


def _evenly(prompts: list[str], count: int) -> list[str]:
    count = min(count, len(prompts))
    return [prompts[index * len(prompts) // count] for index in range(count)]


def _score_distributions(
    model: LiveModel,
    prompts: list[str],
    settings: LocalizeSettings,
    report: Progress,
    looks: LooksCalibration,
) -> dict[str, Distribution]:
    predictor = predictor_of(model, settings)
    latents = seeded_latents(model, settings.seed, settings.seeds)
    detectors = [registry.detector(name) for name in registry.detector_places()]
    scores = _scores_on(predictor, latents, prompts, detectors, "scores", report, looks)
    if settings.confirm_seeds:
        criteria = [registry.criterion(name) for name in registry.CRITERIA]
        fresh = seeded_latents(model, settings.confirm_seed, settings.confirm_seeds)
        more = _scores_on(predictor, fresh, prompts, criteria, "scores on fresh seeds", report)
        own = {name for one in criteria for name in one.distributions}
        scores |= {f"confirm_{name}": found for name, found in more.items() if name in own}
    return scores


def _scores_on(
    predictor: NoisePredictor,
    latents: torch.Tensor,
    prompts: list[str],
    detectors: Sequence[Detector],
    what: str,
    report: Progress,
    looks: LooksCalibration | None = None,
) -> dict[str, Distribution]:
    found: dict[str, list[float]] = {}
    before: Predictions | None = None
    for position, (_, one) in enumerate(predictions_of(predictor, latents, ([one] for one in prompts))):
        asked_for: set[str] = set()
        for detector in detectors:
            values = detector.calibration_values(one, before)
            if twice := asked_for & set(values):
                raise ValueError(f"two criteria or detectors calibrate {sorted(twice)}: rename one of them")
            asked_for |= set(values)
            for name, some in values.items():
                found.setdefault(name, []).extend(some)
        before = one
        if looks is not None:
            looks.see(one)
        report(what, position + 1, len(prompts))
    for detector in detectors:
        found.update(detector.derived_values(found, len(latents)))
    listed = sorted(found, key=lambda name: (*LISTED_FIRST, name).index(name))
    # Of two prompts a comparison with the one before gives a single value.
    return {name: Distribution.of(found[name]) for name in listed if len(found[name]) > 1}


def predictions_of(
    predictor: NoisePredictor, latents: torch.Tensor, batches: Iterable[Sequence[str]]
) -> Iterator[tuple[Sequence[str], Predictions]]:
    """(prompts, their predictions on the latents) for every batch of prompts, each of them asked at once."""

    @cache
    def empty() -> torch.Tensor:
        return predictor.predict(latents, encode_prompts(predictor.model, [""]))

    for some in batches:
        conditioning = encode_prompts(predictor.model, some).repeat(len(latents))
        noise = predictor.predict(latents.repeat(len(some), 1, 1, 1), conditioning)
        noise = noise.unflatten(0, (len(some), len(latents)))
        draw = partial(_drawn, predictor, latents[:1], conditioning.select(slice(0, 1)))
        yield some, Predictions(noise, latents, empty, predictor.noise_rate, draw)


def _drawn(predictor: NoisePredictor, latents: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    return ShortSampler(predictor).draw(latents, conditioning)[0].cpu()


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
