"""`discovery.py second-look`: how many ordinary captions would end with neurons, and who is lost."""

from __future__ import annotations

import argparse

from discovery_corpora import calibrated, held_out_descriptions, held_out_titles, model_of

from surgery.localization.calibration import predictor_of
from surgery.localization.criteria import Gate
from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.records import LOCALIZED, NOT_MEMORIZED, PromptRecord
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.second_look import SecondLook, corrected
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.testbed.load import read_ground_truth


def judged(localizer: PromptLocalizer, caption: str) -> Gate:
    """What the gate of `localize` says of a caption."""
    evaluator = PromptEvaluator(
        localizer.predictor,
        encode_prompts(localizer.model, [caption]),
        localizer.latents,
        localizer.criterion.of_prompt(caption),
    )
    return evaluator.judge(localizer.thresholds.gate)


def run_second_look(arguments: argparse.Namespace) -> None:
    """Gate, second look and correction over held-out and memorized captions; nothing is searched."""
    model, settings = model_of(arguments.variant), LocalizeSettings()
    calibration = calibrated(model, settings, arguments.calibration)
    ordinary = held_out_titles(arguments.titles) + held_out_descriptions(arguments.descriptions)
    memorized = [memory.caption for memory in read_ground_truth()]
    corpus = memorized + ordinary
    look = SecondLook.of(model, calibration, settings)
    assert look is not None
    localizer = PromptLocalizer(model, calibration, settings)
    passed = {caption: gate.score for caption in corpus if (gate := judged(localizer, caption)).kept}
    predictor, records = predictor_of(model, settings), []
    for caption in corpus:
        if caption not in passed:
            records.append(PromptRecord(caption, NOT_MEMORIZED, 0.0, details={"evaluations": 1, "work": {}}))
            continue
        found = look(predictor, caption)
        details = {"second_look": found.as_json(), "evaluations": 1, "work": {}}
        outcome = NOT_MEMORIZED if found.reason else LOCALIZED
        if found.reason:
            details["reason"] = found.reason
        records.append(PromptRecord(caption, outcome, passed[caption], details=details))
    ended = {
        one.prompt for one in corrected(records, settings.false_discovery_rate) if one.outcome == LOCALIZED
    }
    before, after = len(passed.keys() & set(ordinary)), len(ended & set(ordinary))
    print(
        f"{arguments.variant}: of {len(ordinary)} held-out ordinary captions {before} "
        f"({100 * before / len(ordinary):.1f} %) pass the gate, {after} "
        f"({100 * after / len(ordinary):.1f} %) "
        f"the second look and the correction at {settings.false_discovery_rate:g}; of {len(memorized)} "
        f"memorized {len(passed.keys() & set(memorized))} and {len(ended & set(memorized))}"
    )
    print(f"  second look: {predictor.work.unet_sample_forwards} sample-forwards")
    for one in sorted(passed.keys() & set(ordinary)):
        record = next(record for record in records if record.prompt == one)
        print(f"  {one!r}: {record.details}")
