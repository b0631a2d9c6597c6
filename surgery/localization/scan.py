"""Scan: the gate over a large corpus, in one cheap pass.

Every prompt gets S latents, one denoiser pass over all of them, and one number; prompts are batched together
to fill the device. The number comes from a detector (`surgery.localization.criteria`).

The gate of `localize` asks the same question with the same latents, so that what `scan` ranks above the
threshold is what `localize` works on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.corpus import PromptCorpus, as_corpus
from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.calibration import Calibration, predictions_of, predictor_of
from surgery.localization.localize import usable_calibration
from surgery.localization.settings import CALIBRATION_FIELDS, LocalizeSettings
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import load_pipeline
from surgery.model.work import Work
from surgery.progress import bar


@dataclass(frozen=True)
class ScanRecord:
    """One prompt's score, and whether it lies above the threshold."""

    prompt: str
    score: float
    memorized: bool

    def as_json(self) -> dict[str, Any]:
        """One line of the scan file."""
        return {"prompt": self.prompt, "score": float(f"{self.score:.6g}"), "memorized": self.memorized}


@dataclass(frozen=True)
class Scan:
    """A ranked corpus.

    Attributes:
        records: highest score first.
        detector: by name.
        threshold: scores above it count as memorized.
        work: denoiser calls, sample-forwards, seconds.
    """

    records: list[ScanRecord]
    detector: str
    threshold: float
    work: Work

    @property
    def share(self) -> float:
        """The share of prompts above the threshold."""
        return sum(record.memorized for record in self.records) / len(self.records)


def scan(
    model: Any,
    prompts: str | Path | Sequence[str] | PromptCorpus,
    *,
    detector: str = registry.DEFAULT_DETECTOR,
    threshold: float | None = None,
    settings: LocalizeSettings | None = None,
    calibration: Calibration | str | Path | None = None,
    ordinary: str | Path | Sequence[str] | None = None,
    show_progress: bool = False,
) -> Scan:
    """Score every prompt of a corpus and rank them.

    Args:
        model: as in `localize`.
        prompts: as in `localize`.
        detector: by name, one of `registry.detector_places()`.
        threshold: default: the calibrated one of the detector.
        settings: seeds, timestep, guidance and batch size are taken from here.
        calibration, ordinary: as in `localize`; with a threshold of your own no calibration is made.
        show_progress: draw progress bars on stderr, if that is a terminal.

    Raises:
        UsageError: bad model, corpus, settings, detector or calibration.
        SurgeryError: the denoiser fails.
    """
    settings = settings or LocalizeSettings(confirm_seeds=0)
    known = registry.detector_places()
    if detector not in known:
        raise UsageError("detector", f"there is no {detector!r}", f"choose from {', '.join(known)}")
    corpus = as_corpus(prompts)
    live = load_pipeline(model)
    if threshold is None:
        usable = usable_calibration(live, settings, calibration, ordinary, show_progress, CALIBRATION_FIELDS)
        threshold = usable.threshold(registry.detector(detector))
    work = Work()
    predictor = predictor_of(live, settings, work=work)
    records = []
    with bar(len(corpus.prompts), "scan", show_progress) as progress, work.stage("scan"):
        for prompt, score in prompt_scores(predictor, corpus.prompts, settings, detector):
            records.append(ScanRecord(prompt, score, score > threshold))
            progress.set_postfix(forwards=work.unet_sample_forwards)
            progress.update()
    return Scan(sorted(records, key=lambda record: -record.score), detector, threshold, work)


def prompt_scores(
    predictor: NoisePredictor, prompts: Sequence[str], settings: LocalizeSettings, detector: str
) -> Iterator[tuple[str, float]]:
    """(prompt, score) for each prompt, in order; as many prompts at once as the batch size has room for."""
    latents = seeded_latents(predictor.model, settings.seed, settings.seeds)
    scorer = registry.detector(detector)
    together = max(1, settings.batch_size // settings.seeds)
    for some, seen in predictions_of(predictor, latents, prompts, together):
        yield from zip(some, scorer.scores(seen), strict=True)
