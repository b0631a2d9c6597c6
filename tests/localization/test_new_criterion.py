"""A criterion or detector is one class and one line of the registry; what it reads is what it gets.

`Drift` is what could go wrong most easily: it reads the unablated prediction, and its gate keeps
every seed, so that nothing makes that prediction before the first test of the confirmation.
"""

import dataclasses

import pytest
import torch
from planted_model import PLANTED, caption, ordinary_captions

from surgery.cli import main
from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.calibration import calibrate
from surgery.localization.calibration_file import read_calibration, write_calibration
from surgery.localization.criteria import Criterion, Detector, of_all_pairs
from surgery.localization.localize import localize
from surgery.localization.ms_ssim import pairwise_scores
from surgery.localization.scan import scan
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.seeds_diverge import SeedsDiverge
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, noise_differences, seeded_latents
from surgery.neurons import NeuronSet

SEEDS = {"seeds": 5, "confirm_seeds": 4}
PARTS = (
    "upper_seeds", "best_tile", "seed_matches", "agreeing_seeds", "own_replica", "strangers_image",
)  # fmt: skip
READ = []  # every unablated noise difference that Drift was given


class Drift(Criterion):
    """What is left of the likeness of the seeds, if the noise differences have moved at all."""

    distribution = "likeness"
    cutoff = 2.0

    def gate_score(self, pairwise):
        return of_all_pairs(pairwise, len(pairwise))

    def parts(self, ablated, unablated, seeds, window):
        READ.append(unablated())
        moved = not torch.equal(ablated, READ[-1])
        return {self.distribution: of_all_pairs(pairwise_scores(ablated, window), seeds) if moved else 1.0}


class Loudness(Detector):
    """How far the predicted noise is from none."""

    distribution = "loudness"
    cutoff = 2.0

    def scores(self, seen):
        return seen.noise.flatten(1).norm(dim=1).tolist()


@pytest.fixture(scope="module")
def calibrated(planted):
    """A calibration made while both are registered, as they stay for the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.CRITERIA, "drift", f"{__name__}:Drift")
        patch.setitem(registry.DETECTORS, "loudness", f"{__name__}:Loudness")
        yield calibrate(planted, ordinary_captions(40), LocalizeSettings(**SEEDS), score_prompts=6)


def unablated(model, settings, prompt):
    """The noise differences that a criterion must be given, for the search's and the confirmation's seeds."""
    predictor, conditioning = NoisePredictor(model), encode_prompts(model, [prompt])
    for seed, count in ((settings.seed, settings.seeds), (settings.confirm_seed, settings.confirm_seeds)):
        latents = seeded_latents(model, seed, count)
        yield noise_differences(predictor.predict(latents, conditioning), latents)


@pytest.mark.parametrize("strategy", ["fast", "reference"])
def test_a_new_criterion_localizes_and_confirms_by_the_unablated_prediction(planted, calibrated, strategy):
    settings = LocalizeSettings(criterion="drift", strategy=strategy, **SEEDS)
    ordinary = localize(planted, ["a b c d"], settings=settings, calibration=calibrated)
    assert ordinary.records[0].outcome == "not_memorized"
    READ.clear()
    found = localize(planted, [caption("v")], settings=settings, calibration=calibrated)
    assert found.records[0].refined == NeuronSet.from_pairs(PLANTED["v"])
    assert found.records[0].outcome == "localized"
    confirmed = found.records[0].details["confirmed"]
    assert (confirmed["seeds"], confirmed["broken"]) == (4, True)
    searched, fresh = unablated(planted, settings, caption("v"))
    assert len(READ) > 1
    for given in READ[:-2]:  # the seeds that agree most come first, so the order is another
        assert all(torch.isclose(searched, one, atol=1e-3).flatten(1).all(dim=1).any() for one in given)
    for given in READ[-2:]:  # by the confirmation of the prompt's own set, and of the corpus's
        torch.testing.assert_close(given, fresh, rtol=1e-3, atol=1e-3)
    assert all((given.flatten(1).amax(dim=1) == 1).all() for given in READ)  # scaled to [0, 1]: never zeros
    # The confirmation of this criterion costs the unablated prediction besides the ablated one.
    assert found.records[0].details["work"]["sample_forwards_by_stage"]["confirmation"] == 8


def test_a_criterion_that_reads_only_the_ablated_prediction_pays_for_no_other(planted):
    evaluator = PromptEvaluator(
        NoisePredictor(planted),
        encode_prompts(planted, [caption("v")]),
        seeded_latents(planted, 5, 3),
        SeedsDiverge(),
    )
    evaluator.score(NeuronSet.from_pairs(PLANTED["v"]))
    assert evaluator.predictor.work.unet_sample_forwards == 3
    expected = noise_differences(
        evaluator.predictor.predict(evaluator.latents, evaluator.conditioning), evaluator.latents
    )
    assert torch.equal(evaluator.unablated, expected)


def test_the_names_reach_settings_help_scan_and_the_calibration_file(planted, calibrated, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"choose from seeds-diverge, noise-changed, target-gone, drift$"):
        LocalizeSettings(criterion="magic")
    for command, name in (("localize", "drift"), ("scan", "loudness")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert name in capsys.readouterr().out
    assert list(calibrated.scores) == [
        *("pairs", "prompts", "same_seed", "noise_magnitude"),
        *PARTS,
        *("likeness", "loudness", "confirm_pairs", "confirm_prompts"),
        *(f"confirm_{name}" for name in PARTS),
        "confirm_likeness",
    ]
    write_calibration(calibrated, tmp_path / "c.safetensors")
    loaded = read_calibration(tmp_path / "c.safetensors")
    assert {"drift", "loudness"} <= set(loaded.thresholds())
    settings = LocalizeSettings(**SEEDS)
    for detector in ("drift", "loudness"):
        ranked = scan(
            planted, [caption("v"), "a b c d"], detector=detector, calibration=loaded, settings=settings
        )
        assert len(ranked.records) == 2
        assert ranked.threshold == loaded.threshold(registry.detector(detector))


def test_a_calibration_older_than_a_criterion_still_serves_the_others(planted, calibrated):
    known = {name: one for name, one in calibrated.scores.items() if name in ("pairs", "prompts")}
    old = dataclasses.replace(calibrated, scores=known)
    assert set(old.thresholds()) == {"seeds-diverge", "noise-changed"}
    settings = LocalizeSettings(criterion="drift", **SEEDS)
    with pytest.raises(UsageError, match="has no distribution 'likeness'"):
        localize(planted, [caption("v")], settings=settings, calibration=old)


def test_two_that_calibrate_one_distribution_are_an_error(planted, calibrated, monkeypatch):
    monkeypatch.setattr(Loudness, "distribution", "pairs")
    with pytest.raises(ValueError, match="calibrate \\['pairs'\\]"):
        calibrate(planted, ordinary_captions(4), LocalizeSettings(seeds=2, confirm_seeds=0), score_prompts=2)
