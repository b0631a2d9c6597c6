"""Both strategies against the published loop: an independent transcription of it, and sets on record.

The record (`tests/data/published_sets.json`) holds what the loop finds on the testbed and on the natural
variant at thresholds where it has something to refine. `python tests/localization/test_published.py` writes
it anew with the transcription, which is slow.
"""

import json
from pathlib import Path

import pytest
from published_loop import literal

from surgery.localization.calibration import calibrate
from surgery.localization.localize import localize
from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import load_pipeline
from surgery.model.value_layers import value_layers
from surgery.testbed.load import (
    PLANTED_FOLDER,
    assemble_variant,
    read_ground_truth,
    read_ordinary_prompts,
)

DATA = Path(__file__).resolve().parent.parent / "data"
RECORD = DATA / "published_sets.json"
SEEDS = 6


def settings_of(threshold, strategy):
    return LocalizeSettings(
        criterion="noise-changed",
        strategy=strategy,
        seeds=SEEDS,
        confirm_seeds=0,
        gate_threshold=0.2,
        selection_threshold=threshold,
        refinement_threshold=threshold,
        include_unresolved=True,
    )


def variant(name, folder):
    place = PLANTED_FOLDER if name == "planted" else assemble_variant(DATA / "natural.safetensors", folder)
    model = load_pipeline(place, device="cpu")
    ordinary = read_ordinary_prompts(place)[::10]
    calibration = calibrate(model, ordinary, settings_of(0.5, "fast"), score_prompts=2)
    return model, calibration, {memory.name: memory.caption for memory in read_ground_truth(place)}


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    return {name: variant(name, tmp_path_factory.mktemp(name) / name) for name in ("planted", "natural")}


@pytest.mark.parametrize(
    "case", json.loads(RECORD.read_text()), ids=lambda case: f"{case['variant']}-{case['memory']}"
)
def test_the_fast_strategy_finds_the_sets_on_record(variants, case):
    model, calibration, captions = variants[case["variant"]]
    settings = settings_of(case["threshold"], "fast")
    record = localize(model, [captions[case["memory"]]], calibration=calibration, settings=settings).records[
        0
    ]
    assert record.refined.as_json() == case["refined"]
    assert (record.details["theta"], record.details["k"]) == (case["theta"], case["k"])
    assert record.outcome == case["outcome"]
    assert record.details["kept_seeds"] == case["kept"]
    assert record.score_after == pytest.approx(case["score"], abs=2e-6)


@pytest.mark.parametrize("memory", ["umbrella"])
def test_the_reference_strategy_is_the_published_loop(variants, memory):
    model, calibration, captions = variants["planted"]
    case = next(one for one in json.loads(RECORD.read_text()) if one["memory"] == memory)
    loop = literal(model, calibration, value_layers(model.denoiser), captions[memory], SEEDS, 1)
    kept, initial, theta, k, refined, score = loop.run(0.2, case["threshold"])
    settings = settings_of(case["threshold"], "reference")
    record = PromptLocalizer(model, calibration, settings)(captions[memory])
    assert record.details["kept_seeds"] == kept
    assert (record.details["theta"], record.details["k"]) == (theta, k)
    assert record.details["duplicates"] == len(initial) - len(set(initial))
    assert sorted(record.refined.pairs()) == sorted(refined)
    assert record.score_after == pytest.approx(score, abs=2e-6)


def record_case(variant_name, found, memory, threshold):
    """One entry of the record, by the transcription."""
    from surgery.neurons import NeuronSet

    model, calibration, captions = found
    loop = literal(model, calibration, value_layers(model.denoiser), captions[memory], SEEDS, 1)
    kept, initial, theta, k, refined, score = loop.run(0.2, threshold)
    return {
        "variant": variant_name,
        "memory": memory,
        "threshold": threshold,
        "outcome": "localized" if loop.score(initial) <= threshold else "unresolved",
        "kept": kept,
        "theta": theta,
        "k": k,
        "initial": len(initial),
        "refined": NeuronSet.from_pairs(refined).as_json(),
        "score": round(score, 7),
    }


if __name__ == "__main__":
    import tempfile

    wanted = {
        "planted": [("sunset", 0.6), ("stamp", 0.7), ("umbrella", 0.4), ("face", 0.17)],
        "natural": [("city", 0.83)],
    }
    with tempfile.TemporaryDirectory() as folder:
        cases = []
        for name, asked in wanted.items():
            found = variant(name, Path(folder) / name)
            for memory, threshold in asked:
                cases.append(record_case(name, found, memory, threshold))
                print(cases[-1], flush=True)
    RECORD.write_text(json.dumps(cases, indent=1) + "\n")
