"""From the records of a corpus to its document: one set of neurons, and the evidence for it."""

from __future__ import annotations

from typing import Any

from surgery.corpus import PromptCorpus
from surgery.localization.joint.mask import JointResult
from surgery.localization.ms_ssim import window_of
from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.records import (
    LOCALIZED,
    NOT_MEMORIZED,
    UNRESOLVED,
    Localization,
    PromptRecord,
    aggregate,
)
from surgery.localization.second_look import BY_NATURE, FALSE_ALARM
from surgery.model.work import add_work
from surgery.neurons import NeuronSet
from surgery.versions import library_versions


def aggregated(localizer: PromptLocalizer, records: list[PromptRecord], how: dict[str, Any]) -> NeuronSet:
    """The union, or what else `how` says, of the prompts' own sets."""
    settings = localizer.settings
    counted = {LOCALIZED, UNRESOLVED} if settings.include_unresolved else {LOCALIZED}
    found = [record.refined for record in records if record.outcome in counted]
    neurons = aggregate(found, how["minimum_prompts"], how["most_frequent"], how["per_layer"])
    # Layers in the order of the signal, as a person expects them.
    return NeuronSet({layer: neurons[layer] for layer in localizer.layers if layer in neurons})


def result(
    localizer: PromptLocalizer,
    corpus: PromptCorpus,
    records: list[PromptRecord],
    neurons: NeuronSet,
    how: dict[str, Any],
    joint: JointResult | None = None,
) -> Localization:
    """What `localize` returns."""
    settings = localizer.settings
    window = window_of(*localizer.latents.shape[-2:])
    evidence = {
        "model": localizer.model.source,
        "fingerprint": dict(localizer.calibration.fingerprint),
        "settings": settings.as_json(),
        "thresholds": localizer.thresholds.as_json(),
        "images": len(localizer.images),
        "window": {"taps": window.taps, "sigma": window.sigma},
        "calibration": localizer.calibration.summary(),
        "aggregation": how,
        "corpus": corpus.counts(),
        "outcomes": {
            outcome: sum(record.outcome == outcome for record in records)
            for outcome in (LOCALIZED, NOT_MEMORIZED, UNRESOLVED)
        },
        "reasons": {
            reason: sum(record.details.get("reason") == reason for record in records)
            for reason in (FALSE_ALARM, BY_NATURE)
        },
        "computes_in": localizer.model.type_name,
        "versions": library_versions(),
        "work": add_work([record.details["work"] for record in records]),
    }
    if joint is not None:
        evidence["joint"] = joint.evidence
        evidence["work"] = add_work([*(record.details["work"] for record in records), joint.evidence["work"]])
    return Localization(neurons, records, evidence)
