"""The sequential test: its stated error, on simulated scores and on a model with planted memories."""

import dataclasses

import numpy
import planted_model
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from planted_model import PLANTED, caption

from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.calibration import predictor_of
from surgery.localization.calibration_file import read_calibration, write_calibration
from surgery.localization.discovery.looks import STOPS, Line, Looks, telling_order
from surgery.localization.discovery.sequential import SequentialScorer, SequentialTest
from surgery.localization.discovery.settings import ScanSettings
from surgery.localization.scan import scan
from surgery.localization.settings import LocalizeSettings
from surgery.model.denoising import seeded_latents
from surgery.model.work import Work

CORPUS = [*planted_model.ordinary_captions(12, seed=5), *map(caption, PLANTED)]


def simulated(random, runs, prompts, slope, deviation, score):
    """(regressions on `prompts` simulated ordinary prompts, for each a new prompt's score over few seeds)."""
    whole = random.normal(0.1, 0.03, size=(runs, prompts))
    part = 0.02 + slope * whole + random.normal(0, deviation, size=whole.shape)
    lines = [Line.through(one, other) for one, other in zip(whole, part, strict=True)]
    return lines, 0.02 + slope * score + random.normal(0, deviation, size=runs)


@settings(max_examples=8, deadline=None)
@given(
    some.integers(0, 10**6),
    some.sampled_from([8, 16, 64]),
    some.floats(0.5, 1.5),
    some.floats(0.005, 0.05),
    some.sampled_from([0.01, 0.05, 0.2]),
)
def test_a_prompt_at_the_threshold_is_stopped_as_often_as_stated(seed, prompts, slope, deviation, miss):
    random = numpy.random.default_rng(seed)
    runs, threshold = 1000, 0.16
    lines, fresh = simulated(random, runs, prompts, slope, deviation, threshold)
    stopped = numpy.mean([new <= line.bound(threshold, miss) for line, new in zip(lines, fresh, strict=True)])
    # a line that happens to fall tells nothing and stops nobody, so the error may lie below what is stated
    assert stopped <= miss + 4 * (miss * (1 - miss) / runs) ** 0.5
    falling = numpy.mean([line.slope <= 0 for line in lines])
    assert stopped >= miss - falling - 4 * (miss * (1 - miss) / runs) ** 0.5


@settings(max_examples=8, deadline=None)
@given(some.integers(0, 10**6), some.floats(0.0, 0.1), some.sampled_from([0.01, 0.05]))
def test_all_stops_together_err_no_more_than_stated_and_less_above_the_threshold(seed, more, miss):
    random = numpy.random.default_rng(seed)
    runs, threshold, stopped = 800, 0.16, None
    for deviation in (0.03, 0.02, 0.01):
        lines, fresh = simulated(random, runs, 32, 1.0, deviation, threshold + more)
        looks = [Looks(tuple(range(10)), {"a detector": dict.fromkeys(STOPS, line)}) for line in lines]
        tests = [SequentialTest.of(one, "a detector", threshold, 10, miss) for one in looks]
        bounds = numpy.array([one.stops[0].bound for one in tests])
        stopped = (fresh <= bounds) | (False if stopped is None else stopped)
    assert stopped.mean() <= miss + 4 * (miss * (1 - miss) / runs) ** 0.5


def test_a_line_that_tells_nothing_never_stops_anybody():
    assert Line.through([0.1] * 9, [0.1, 0.2, 0.3] * 3).bound(0.2, 0.01) == -numpy.inf
    assert Line.through([0.1, 0.2, 0.3] * 3, [0.3, 0.2, 0.1] * 3).bound(0.2, 0.01) == -numpy.inf
    assert SequentialTest.of(None, "seeds-diverge", 0.2, 10, 0.01) == SequentialTest.all_seeds(10)


def test_the_most_telling_pair_of_seeds_comes_first():
    random = numpy.random.default_rng(0)
    level = random.normal(0.2, 0.05, size=40)
    pairwise = level[:, None, None] + random.normal(0, 0.1, size=(40, 6, 6))
    pairwise[:, 4, 2] = level + random.normal(0, 0.001, size=40)
    pairwise = numpy.triu(pairwise.transpose(0, 2, 1), 1)
    pairwise = pairwise + pairwise.transpose(0, 2, 1) + numpy.eye(6)
    order = telling_order(pairwise)
    assert set(order[:2]) == {2, 4}
    assert sorted(order) == list(range(6))


def test_memories_get_all_seeds_and_their_very_score_while_ordinary_prompts_are_done_early(
    planted, calibration
):
    early = scan(planted, CORPUS, calibration=calibration)
    whole = scan(planted, CORPUS, calibration=calibration, search=ScanSettings(sequential=False))
    assert {one.seeds for one in whole.records} == {10}
    assert [one.prompt for one in early.records if one.memorized] == [
        one.prompt for one in whole.records if one.memorized
    ]
    assert {one.prompt for one in early.records[:5]} == set(map(caption, PLANTED))
    exact = {one.prompt: one.score for one in whole.records}
    for one in early.records:
        if one.seeds == 10:
            assert one.score == pytest.approx(exact[one.prompt], rel=1e-3)
    assert sum(one.seeds for one in early.records) == early.work.unet_sample_forwards
    assert numpy.mean([one.seeds for one in early.records if not one.memorized]) < 8
    assert min(one.seeds for one in early.records) == STOPS[0]


@pytest.mark.parametrize(("detector", "most"), [("noise-magnitude", 9), ("noise-changed", 10)])
def test_every_detector_keeps_its_memories(planted, calibration, detector, most):
    """The best match among seeds, which noise-changed scores, is nothing that two seeds could tell."""
    found = scan(planted, CORPUS, detector=detector, calibration=calibration)
    assert {one.prompt for one in found.records[:5]} == set(map(caption, PLANTED))
    assert found.seeds_per_prompt <= most


def test_those_asked_for_in_full_get_all_seeds_and_batches_change_nothing(planted, calibration):
    settings_, detector = LocalizeSettings(), registry.detector("seeds-diverge")
    test = SequentialTest.of(calibration.looks, "seeds-diverge", calibration.threshold(detector), 10, 0.01)
    latents = seeded_latents(planted, 0, 10)
    found = []
    for size in (7, 64):
        predictor = predictor_of(planted, dataclasses.replace(settings_, batch_size=size), work=Work())
        found.append(SequentialScorer(predictor, detector, latents, test)(CORPUS, in_full={CORPUS[3]}))
    assert found[0][3].seeds == 10
    for other in found[1:]:
        assert [one.seeds for one in other] == [one.seeds for one in found[0]]
        assert [one.score for one in other] == pytest.approx([one.score for one in found[0]], rel=1e-3)


def test_the_calibration_file_keeps_the_looks_and_an_older_one_does_without(planted, calibration, tmp_path):
    path = tmp_path / "c.safetensors"
    write_calibration(calibration, path)
    assert read_calibration(path).looks == calibration.looks
    assert set(calibration.looks.lines) == set(registry.detector_places())
    assert all(set(of_one) == set(STOPS) for of_one in calibration.looks.lines.values())
    old = dataclasses.replace(calibration, looks=None)
    assert {one.seeds for one in scan(planted, CORPUS[:3], calibration=old).records} == {10}


def test_predictions_of_one_batch_are_all_that_is_in_memory(planted, calibration):
    """The scorer keeps nothing between batches but the latents and the prediction for the empty prompt."""
    detector = registry.detector("seeds-diverge")
    predictor = predictor_of(planted, LocalizeSettings())
    test = SequentialTest.of(calibration.looks, "seeds-diverge", calibration.threshold(detector), 10, 0.01)
    scorer = SequentialScorer(predictor, detector, seeded_latents(planted, 0, 10), test)
    scorer(CORPUS)
    kept = [value for value in vars(scorer).values() if isinstance(value, torch.Tensor)]
    assert [tensor.shape for tensor in kept] == [scorer.latents.shape]


@pytest.mark.parametrize("miss", [0.0, 1.0, float("nan")])
def test_a_chance_is_between_nothing_and_certainty(miss):
    with pytest.raises(UsageError):
        ScanSettings(miss=miss)


def test_only_duplicated_needs_images(planted):
    with pytest.raises(UsageError, match="there are no training images"):
        scan(planted, CORPUS, threshold=0.5, search=ScanSettings(only_duplicated=True))
