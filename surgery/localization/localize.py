"""Localization of a corpus: many prompts, one set of neurons.

1. Load the model; read the prompts; calibrate on ordinary prompts (or take a saved calibration of this very
   model).
2. Localize prompt by prompt (`surgery.localization.one_prompt`), spread over the processes; each record goes
   to the journal.
3. Gather the records in corpus order, drop what the correction for many prompts calls false alarms
   (`surgery.localization.second_look`), and aggregate the refined sets of the localized prompts; or search
   one mask that breaks all memories together (`surgery.localization.joint`).
4. Confirm the one set for every memorized prompt, on fresh seeds and on pictures
   (`surgery.localization.confirmation`).

The sets of unresolved prompts stay out of the corpus set unless asked for: they do not break their memory,
and may hold hundreds of neurons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery import fingerprint
from surgery.corpus import PromptCorpus, as_corpus
from surgery.errors import UsageError
from surgery.localization.calibration import Calibration, calibrate
from surgery.localization.calibration_file import read_calibration
from surgery.localization.gathering import aggregated, result
from surgery.localization.joint.mask import find_joint_mask
from surgery.localization.journal import OF_LOCALIZE, Journal
from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.records import (
    NOT_MEMORIZED,
    Localization,
    PromptRecord,
    aggregate,
    with_joint,
)
from surgery.localization.second_look import corrected
from surgery.localization.settings import (
    AFTER_THE_RECORDS,
    CALIBRATION_FIELDS,
    CONFIRMATION_FIELDS,
    LocalizeSettings,
)
from surgery.measures.pictures import picture_size
from surgery.measures.subjects import subjects_from
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.model.value_layers import denoiser_fingerprint
from surgery.model.work import Work
from surgery.neurons import NeuronSet
from surgery.ordinary import ordinary_prompts
from surgery.processes import Processes
from surgery.progress import StageBars, bar


def localize(
    model: Any,
    prompts: str | Path | Iterable[str] | PromptCorpus,
    *,
    settings: LocalizeSettings | None = None,
    calibration: Calibration | str | Path | None = None,
    ordinary: str | Path | Sequence[str] | None = None,
    minimum_prompts: int = 1,
    most_frequent: int | None = None,
    per_layer: bool = False,
    images: str | Path | Mapping[str, Any] | None = None,
    masks: Mapping[str, Any] | None = None,
    journal: str | Path | None = None,
    processes: Processes | None = None,
    show_progress: bool = False,
    on_record: Callable[[PromptRecord], None] | None = None,
) -> Localization:
    """Find the memorization neurons of a corpus (NeMo, arXiv 2406.02366, with the criteria of `settings`).

    Args:
        model: a diffusers folder, single file or Hub id, a loaded pipeline, or a `LiveModel`.
        prompts: a corpus file, the captions themselves, or a `PromptCorpus`.
        settings: default: `LocalizeSettings()`.
        calibration: made for this model by `calibrate`, or its file; default: calibrate now.
        ordinary: ordinary captions for calibrating now: a file or a list; default: see `ordinary_prompts`.
        minimum_prompts, most_frequent, per_layer: how prompts' sets become one, see `aggregate`.
        images: training images, for target-gone and for the confirmation: a folder (named as for the audit,
            see `surgery.measures.subjects`), or prompt -> path, PIL image or array.
        masks: prompt -> path or array, true where the image is fixed; only with `images` as a mapping.
        journal: a file that records each prompt as it ends; the same call with the same file goes on from
            there.
        processes: this process among those of the launcher; default: the only one.
        show_progress: draw progress bars on stderr, if that is a terminal.
        on_record: called with each new record of this process.

    Returns:
        The neurons, one record per different prompt, and the evidence; the same on every process.

    Raises:
        UsageError: bad model, corpus, settings or calibration; a calibration or journal of another model.
        SurgeryError: the denoiser fails.
    """
    settings = settings or LocalizeSettings()
    processes = processes or Processes()
    # Refuse bad numbers before the work, not after it.
    how: dict[str, Any] = {
        "minimum_prompts": minimum_prompts,
        "most_frequent": most_frequent,
        "per_layer": per_layer,
    }
    aggregate([], **how)
    if settings.joint and (minimum_prompts, most_frequent) != (1, None):
        raise UsageError(
            "joint", "chooses the neurons itself", "drop --min-prompts and --most-frequent, or --joint"
        )
    corpus = as_corpus(prompts)
    live = load_pipeline(model)
    usable = processes.from_main(
        usable_calibration(live, settings, calibration, ordinary, show_progress)
        if processes.is_main
        else None
    )
    subjects = subjects_from(corpus.prompts, images, masks, picture_size(live)) if images else []
    localizer = PromptLocalizer(live, usable, settings, subjects)
    book = None
    if journal is not None:
        book = Journal(OF_LOCALIZE, journal, _run_description(localizer), processes.rank)
    try:
        known: dict[str, PromptRecord] = dict(book.records) if book is not None else {}
        for some in processes.gather(known):
            known.update(some)
        todo = [prompt for prompt in corpus.prompts if prompt not in known]
        fresh = _localize_all(localizer, todo, book, processes, show_progress, on_record)
    finally:
        if book is not None:
            book.close()
    for some in processes.gather({record.prompt: record for record in fresh}):
        known.update(some)
    records = corrected([known[prompt] for prompt in corpus.prompts], settings.false_discovery_rate)
    joint = None
    if settings.joint:
        unlike = {record.prompt for record in records if record.details.get("image_unlike")}
        images = {prompt: image for prompt, image in localizer.targets.items() if prompt not in unlike}
        joint = processes.from_main(
            find_joint_mask(live, records, _captions(live, ordinary), settings, images)
            if processes.is_main
            else None
        )
        records = [with_joint(record, joint.prompts.get(record.prompt)) for record in records]
    neurons = aggregated(localizer, records, how) if joint is None else joint.neurons
    records = confirm_final(localizer, records, neurons, processes, show_progress)
    return result(localizer, corpus, records, neurons, how, joint)


def _captions(model: LiveModel, ordinary: str | Path | Sequence[str] | None) -> Sequence[str]:
    if ordinary is None or isinstance(ordinary, str | Path):
        return ordinary_prompts(model.source, ordinary)[0]
    return ordinary


def confirm_final(
    localizer: PromptLocalizer,
    records: list[PromptRecord],
    neurons: NeuronSet,
    processes: Processes,
    show_progress: bool = False,
) -> list[PromptRecord]:
    """The records with the confirmation of the corpus's set, spread over the processes, in their order."""
    searched = [record for record in records if record.outcome != NOT_MEMORIZED]
    if not localizer.settings.confirm_seeds:
        return records
    done: dict[str, PromptRecord] = {}
    with bar(len(searched), "confirm", show_progress and processes.is_main) as progress:
        for number in processes.deal(len(searched)):
            record, work = searched[number], Work()
            if record.details.get("image_unlike"):  # another process, or another run, may have seen it
                localizer.forget_image(record.prompt)
            final = localizer.confirmation.final(record.prompt, neurons, work)
            done[record.prompt] = record.with_final(final, work.as_json())
            progress.update(number + 1 - progress.n)
    everything: dict[str, PromptRecord] = {}
    for some in processes.gather(done):
        everything.update(some)
    return [everything.get(record.prompt, record) for record in records]


def usable_calibration(
    model: LiveModel,
    settings: LocalizeSettings,
    calibration: Calibration | str | Path | None = None,
    ordinary: str | Path | Sequence[str] | None = None,
    show_progress: bool = False,
    must_agree: Sequence[str] = (*CALIBRATION_FIELDS, *CONFIRMATION_FIELDS),
) -> Calibration:
    """The given calibration, checked to be of this model and made with these settings; or a new one.

    Args:
        model: the live model.
        settings: what the calibration must have been made with.
        calibration, ordinary, show_progress: as in `localize`.
        must_agree: the settings in which a given calibration must agree with `settings`.

    Raises:
        UsageError: it is of another model or made with other settings; both a calibration and captions are
            given.
    """
    if calibration is not None and ordinary is not None:
        raise UsageError(
            "ordinary", "there is a calibration already", "give either a calibration or ordinary captions"
        )
    if calibration is None:
        if ordinary is None or isinstance(ordinary, str | Path):
            captions, source = ordinary_prompts(model.source, ordinary)
        else:
            captions, source = list(ordinary), "given captions"
        bars = StageBars(show_progress)
        try:
            return calibrate(model, captions, settings, source=source, cutoff=settings.cutoff, progress=bars)
        finally:
            bars.close()
    name = calibration if not isinstance(calibration, Calibration) else "calibration"
    loaded = calibration if isinstance(calibration, Calibration) else read_calibration(calibration)
    other = fingerprint.difference(loaded.fingerprint, denoiser_fingerprint(model.denoiser))
    if other is not None:
        raise UsageError(name, f"was made for another model: {other}", "calibrate this model")
    for setting in must_agree:
        value = getattr(settings, setting)
        if loaded.made_with.get(setting) != value:
            raise UsageError(
                name,
                f"was made with {setting} {loaded.made_with.get(setting)!r}, not {value!r}",
                "calibrate with the same settings",
            )
    return loaded if settings.cutoff is None else replace(loaded, cutoff=settings.cutoff)


def _run_description(localizer: PromptLocalizer) -> dict[str, Any]:
    """What a prompt's record depends on: not the batch size, nor what becomes of the records later."""
    settings = localizer.settings.as_json()
    for name in ("batch_size", *AFTER_THE_RECORDS):
        settings.pop(name)
    return {
        "images": localizer.images_digest if localizer.images else None,
        "settings": settings,
        "thresholds": localizer.thresholds.as_json(),
        "fingerprint": localizer.calibration.fingerprint,
        "computes_in": localizer.model.type_name,
    }


def _localize_all(
    localizer: PromptLocalizer,
    prompts: list[str],
    book: Journal[PromptRecord] | None,
    processes: Processes,
    show_progress: bool,
    on_record: Callable[[PromptRecord], None] | None,
) -> list[PromptRecord]:
    records = []
    with bar(len(prompts), "localize", show_progress and processes.is_main) as progress:
        spent: Counter[str] = Counter()
        by_stage: Counter[str] = Counter()
        for number in processes.deal(len(prompts)):
            record = localizer(prompts[number])
            if book is not None:
                book.append([record])
            records.append(record)
            if on_record is not None:
                on_record(record)
            work = record.details["work"]
            spent.update(calls=work["unet_calls"], forwards=work["unet_sample_forwards"])
            by_stage.update(work["seconds_by_stage"])
            stages = {stage: f"{seconds:.0f}s" for stage, seconds in by_stage.items()}
            progress.set_postfix(**spent, **stages, last=record.outcome)
            progress.update(number + 1 - progress.n)  # the others' are done or under way
    return records
