"""Scan: the gate over a large corpus, in one cheap pass.

1. With training images at hand, captions whose image occurs often come first
   (`surgery.localization.discovery.training_images`), and are looked at with all seeds.
2. Every other prompt gets a few latents first, and the rest of the S only if these do not settle that it is
   ordinary (`surgery.localization.discovery.sequential`). Prompts are batched together to fill the device.
3. A detector (`surgery.localization.criteria`) turns the predictions into one number a prompt.

The gate of `localize` asks again, with the same latents: by its own criterion, which is another one than the
default detector here. A detector must tell much from few seeds, and the mean likeness of seeds does; the
likeness of the likest seed to a target, by which `localize` says that a memory is broken, does not.

The corpus goes by in batches, which several processes deal out. They are cut from the whole of it, so that a
score is the same whoever finds it, and whatever was known before; what grows with the corpus is the captions
and their records, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgery.corpus import PromptCorpus, as_corpus
from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.calibration import Calibration, predictor_of
from surgery.localization.discovery.looks import Looks
from surgery.localization.discovery.ranking import OF_SCAN, Scan, ScanRecord
from surgery.localization.discovery.sequential import SequentialScorer, SequentialTest
from surgery.localization.discovery.settings import ScanSettings
from surgery.localization.discovery.training_images import Copies, copies_of
from surgery.localization.journal import Journal
from surgery.localization.localize import usable_calibration
from surgery.localization.settings import CALIBRATION_FIELDS, LocalizeSettings
from surgery.model.denoising import seeded_latents
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.model.value_layers import denoiser_fingerprint
from surgery.model.work import Work
from surgery.processes import Processes
from surgery.progress import bar

# Denoiser calls that one batch of prompts fills: later stages see a tenth of the prompts, and fill some too.
CALLS_TOGETHER = 8


def scan(
    model: Any,
    prompts: str | Path | Sequence[str] | PromptCorpus,
    *,
    detector: str = registry.DEFAULT_DETECTOR,
    threshold: float | None = None,
    settings: LocalizeSettings | None = None,
    search: ScanSettings | None = None,
    calibration: Calibration | str | Path | None = None,
    ordinary: str | Path | Sequence[str] | None = None,
    images: str | Path | None = None,
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
        search: when to stop looking at a prompt, and what counts as a near-duplicate.
        calibration, ordinary: as in `localize`; with a threshold of your own and no calibration none is made,
            and all seeds of every prompt are looked at.
        images: a folder of training images to start from, see `surgery.image_files`.
        journal: a file that records scores as they are found; the same call with it goes on from there.
        processes: this process among those of the launcher; default: the only one.
        show_progress: draw progress bars on stderr, if that is a terminal.

    Returns:
        The ranking; the same on every process.

    Raises:
        UsageError: bad model, corpus, settings, detector, images or calibration; a journal of another run;
            no caption is left to scan.
        SurgeryError: the denoiser fails.
    """
    settings = settings or LocalizeSettings(confirm_seeds=0)
    search = search or ScanSettings()
    places = registry.detector_places()
    if detector not in places:
        raise UsageError("detector", f"there is no {detector!r}", f"choose from {', '.join(places)}")
    processes = processes or Processes()
    corpus = as_corpus(prompts)
    shown = show_progress and processes.is_main
    copies = processes.from_main(_copies(images, corpus, search, shown) if processes.is_main else None)
    captions = _in_order(corpus.prompts, copies, search)
    live = load_pipeline(model)
    looks: Looks | None = None
    if threshold is None or calibration is not None:
        if processes.is_main:
            usable = usable_calibration(live, settings, calibration, ordinary, shown, CALIBRATION_FIELDS)
            threshold = usable.threshold(registry.detector(detector)) if threshold is None else threshold
            looks = usable.looks
        threshold, looks = processes.from_main((threshold, looks))
    assert threshold is not None
    test = SequentialTest.all_seeds(settings.seeds)
    if search.sequential:
        test = SequentialTest.of(looks, detector, threshold, settings.seeds, search.miss)
    book = None
    if journal is not None:
        run = _run_description(live, settings, search, detector, threshold, test, copies)
        book = Journal(OF_SCAN, journal, run, processes.rank)
    work = Work()
    fresh: dict[str, ScanRecord] = {}
    try:
        known: dict[str, ScanRecord] = dict(book.records) if book is not None else {}
        for some in processes.gather(known):
            known.update(some)
        todo = [
            batch for batch in batches_of(captions, settings) if not all(prompt in known for prompt in batch)
        ]
        judge = Judge(live, settings, detector, threshold, test, copies, work)
        with bar(sum(map(len, todo)), "scan", shown) as progress, work.stage("scan"):
            for number in processes.deal(len(todo)):
                records = judge(todo[number])
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
    ranked = sorted((known[one] for one in captions), key=lambda one: (not one.memorized, -one.score))
    return Scan(ranked, detector, threshold, total, test, copies)


def batches_of(prompts: Sequence[str], settings: LocalizeSettings) -> list[Sequence[str]]:
    """A corpus cut into as many prompts as are tested together, the last ones excepted."""
    together = CALLS_TOGETHER * settings.batch_size
    return [prompts[start : start + together] for start in range(0, len(prompts), together)]


class Judge:
    """Gives the records of a batch of prompts; what all batches of a run share."""

    def __init__(
        self,
        model: LiveModel,
        settings: LocalizeSettings,
        detector: str,
        threshold: float,
        test: SequentialTest,
        copies: Copies | None,
        work: Work,
    ) -> None:
        self.seeds = settings.seeds
        self.threshold = threshold
        self.copies = None if copies is None else copies.of_caption
        self.scorer = SequentialScorer(
            predictor_of(model, settings, work=work),
            registry.detector(detector),
            seeded_latents(model, settings.seed, settings.seeds),
            test,
        )

    def __call__(self, prompts: Sequence[str]) -> list[ScanRecord]:
        copies = self.copies
        return [
            ScanRecord(
                prompt,
                scored.score,
                scored.seeds == self.seeds and scored.score > self.threshold,
                scored.seeds,
                None if copies is None else copies.get(prompt, 0),
            )
            for prompt, scored in zip(prompts, self.scorer(prompts, in_full=copies or ()), strict=True)
        ]


def _copies(
    images: str | Path | None, corpus: PromptCorpus, search: ScanSettings, show_progress: bool
) -> Copies | None:
    if images is None:
        if search.only_duplicated:
            raise UsageError(
                "only-duplicated", "there are no training images", "name their folder (--images)"
            )
        return None
    with bar(0, "hash images", show_progress, unit="image") as progress:
        return copies_of(images, corpus.prompts, search.near, lambda done: progress.update(done - progress.n))


def _in_order(prompts: list[str], copies: Copies | None, search: ScanSettings) -> list[str]:
    """The prompts to scan; those whose images occur most often first."""
    if copies is None:
        return prompts
    of_caption = copies.of_caption
    if search.only_duplicated:
        prompts = [prompt for prompt in prompts if prompt in of_caption]
        if not prompts:
            raise UsageError(
                "only-duplicated", "no image of a caption has a near-duplicate", "scan the whole corpus"
            )
    return sorted(prompts, key=lambda prompt: -of_caption.get(prompt, 0))


def _run_description(
    model: LiveModel,
    settings: LocalizeSettings,
    search: ScanSettings,
    detector: str,
    threshold: float,
    test: SequentialTest,
    copies: Copies | None,
) -> dict[str, Any]:
    """What a score and its mark depend on. The batch size changes neither beyond rounding."""
    made_with = settings.as_json()
    made_with.pop("batch_size")
    return {
        "settings": {**made_with, **search.as_json()},
        "detector": detector,
        "threshold": threshold,
        "test": test.as_json(),
        "images": None if copies is None else copies.counts(),
        "fingerprint": denoiser_fingerprint(model.denoiser),
        "computes_in": model.type_name,
    }
