"""Both strategies on a trained model whose memories are diffuse and not monotone: the natural variant.

Found there: a fast search that inferred more than the scores allowed leapt over the step at which the
published loop stops, called the prompt unresolved, and cost more than the published loop.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from surgery.localization.calibration import calibrate
from surgery.localization.localize import localize
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import load_pipeline
from surgery.ordinary import ordinary_prompts
from surgery.testbed.load import assemble_variant, read_ground_truth

# thresholds by hand are of one criterion
SETTINGS = LocalizeSettings(criterion="seeds-diverge", confirm_seeds=0)
NATURAL = Path(__file__).resolve().parent.parent / "data" / "natural.safetensors"


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    folder = assemble_variant(NATURAL, tmp_path_factory.mktemp("natural") / "model")
    model = load_pipeline(folder, device="cpu")
    captions, _ = ordinary_prompts(model.source)
    calibration = calibrate(model, captions[:60], SETTINGS, score_prompts=16)
    return model, calibration, [memory.caption for memory in read_ground_truth(folder)]


@pytest.mark.parametrize(
    ("memory", "selection", "refinement"),
    [(0, 0.25, 0.25), (10, 0.35, 0.35), (7, 0.45, 0.45), (10, 0.3, 0.5), (10, 0.5, 0.3)],
)
def test_both_strategies_agree_and_the_fast_one_costs_less(natural, memory, selection, refinement):
    model, calibration, captions = natural
    settings = replace(
        SETTINGS, gate_threshold=0.14, selection_threshold=selection, refinement_threshold=refinement
    )
    fast, reference = (
        localize(
            model,
            [captions[memory]],
            calibration=calibration,
            settings=replace(settings, strategy=strategy),
        ).records[0]
        for strategy in ("fast", "reference")
    )
    assert reference.outcome == fast.outcome == "localized"
    assert reference.details["steps"] == fast.details["steps"] > 1
    assert reference.initial == fast.initial
    assert reference.refined == fast.refined
    work = [record.details["work"]["unet_sample_forwards"] for record in (reference, fast)]
    assert work[0] > 1.3 * work[1]
