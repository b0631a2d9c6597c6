"""Scan: the gate over a large corpus, in one cheap pass.

Every prompt gets S latents, one denoiser pass over all of them, and one number; prompts are batched together
to fill the device. The number comes from a detector (`surgery.localization.criteria`).

Several processes deal out such batches. They are cut from the whole corpus, so that a score is the same
whoever finds it, and whatever was known before.

The gate of `localize` asks the same question with the same latents, so that what `scan` ranks above the
threshold is what `localize` works on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.corpus import PromptCorpus, as_corpus
from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.calibration import Calibration, predictions_of, predictor_of
from surgery.localization.journal import Journal, JournalKind
from surgery.localization.localize import usable_calibration
from surgery.localization.settings import CALIBRATION_FIELDS, LocalizeSettings
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.model.value_layers import denoiser_fingerprint
from surgery.model.work import Work
from surgery.processes import Processes
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


OF_SCAN = JournalKind("surgery.scan-journal/1", asdict, lambda line: ScanRecord(**line))


@dataclass(frozen=True)
class Scan:
    """A ranked corpus.

    Attributes:
        records: highest score first.
        detector: by name.
        threshold: scores above it count as memorized.
        work: denoiser calls, sample-forwards, seconds of this run, of all processes together.
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
    detector: str = registry.DEFAULT,
    threshold: float | None = None,
    settings: LocalizeSettings | None = None,
    calibration: Calibration | str | Path | None = None,
    ordinary: str | Path | Sequence[str] | None = None,
    journal: str | Path | None = None,
    processes: Processes | None = None,
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
        journal: a file that records scores as they are found; the same call with it goes on from there.
        processes: this process among those of the launcher; default: the only one.
        show_progress: draw progress bars on stderr, if that is a terminal.

    Returns:
        The ranking; the same on every process.

    Raises:
        UsageError: bad model, corpus, settings, detector or calibration; a journal of another run.
        SurgeryError: the denoiser fails.
    """
    settings = settings or LocalizeSettings(confirm_seeds=0)
    processes = processes or Processes()
    known_detectors = registry.detector_places()
    if detector not in known_detectors:
        raise UsageError("detector", f"there is no {detector!r}", f"choose from {', '.join(known_detectors)}")
    corpus = as_corpus(prompts)
    live = load_pipeline(model)
    if threshold is None:
        if processes.is_main:
            usable = usable_calibration(
                live, settings, calibration, ordinary, show_progress, CALIBRATION_FIELDS
            )
            threshold = usable.threshold(registry.detector(detector))
        threshold = processes.from_main(threshold)
    assert threshold is not None
    book = None
    if journal is not None:
        book = Journal(
            OF_SCAN, journal, _run_description(live, settings, detector, threshold), processes.rank
        )
    work = Work()
    try:
        known: dict[str, ScanRecord] = dict(book.records) if book is not None else {}
        for some in processes.gather(known):
            known.update(some)
        todo = [
            batch for batch in batches_of(corpus.prompts, settings) if not all(one in known for one in batch)
        ]
        predictor = predictor_of(live, settings, work=work)
        fresh: dict[str, ScanRecord] = {}
        shown = show_progress and processes.is_main
        with bar(sum(map(len, todo)), "scan", shown) as progress, work.stage("scan"):
            dealt = (todo[number] for number in processes.deal(len(todo)))
            for scores in batch_scores(predictor, dealt, settings, detector):
                records = [ScanRecord(prompt, score, score > threshold) for prompt, score in scores]
                fresh.update((record.prompt, record) for record in records)
                if book is not None:
                    book.append(records)
                progress.set_postfix(forwards=work.unet_sample_forwards)
                progress.update(len(records))
    finally:
        if book is not None:
            book.close()
    total = Work()
    for some, spent in processes.gather((fresh, work)):
        known.update(some)
        total.add(spent)
    ranked = sorted((known[prompt] for prompt in corpus.prompts), key=lambda record: -record.score)
    return Scan(ranked, detector, threshold, total)


def batches_of(prompts: Sequence[str], settings: LocalizeSettings) -> list[Sequence[str]]:
    """A corpus cut into as many prompts as one denoiser call has room for, the last ones excepted."""
    together = max(1, settings.batch_size // settings.seeds)
    return [prompts[start : start + together] for start in range(0, len(prompts), together)]


def batch_scores(
    predictor: NoisePredictor, batches: Iterable[Sequence[str]], settings: LocalizeSettings, detector: str
) -> Iterator[list[tuple[str, float]]]:
    """(prompt, score) for each prompt of each batch, in order."""
    latents = seeded_latents(predictor.model, settings.seed, settings.seeds)
    scorer = registry.detector(detector)
    for some, seen in predictions_of(predictor, latents, batches):
        yield list(zip(some, scorer.scores(seen), strict=True))


def _run_description(
    model: LiveModel, settings: LocalizeSettings, detector: str, threshold: float
) -> dict[str, Any]:
    """What a score and its mark depend on. The batch size changes neither beyond rounding."""
    made_with = settings.as_json()
    made_with.pop("batch_size")
    return {
        "settings": made_with,
        "detector": detector,
        "threshold": threshold,
        "fingerprint": denoiser_fingerprint(model.denoiser),
        "computes_in": model.type_name,
    }
