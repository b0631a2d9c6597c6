"""Calibration of the statistics, by simulation: nominal levels are kept, stated power is reached."""

import itertools
import math

import numpy
import pytest
from scipy import stats

from surgery.auditing.judgement.corrections import corrected
from surgery.auditing.judgement.statistics import (
    clean_checkpoint_share,
    clopper_pearson,
    controls_needed,
    controls_wanted,
    critical_score,
    memory_effect,
    pooled_p_value,
    rank_p_value,
    removal_p_value,
)
from surgery.errors import UsageError

ROUNDS = 4000


def upper_bound(rate, trials):
    """What a rate may reach in a simulation of so many trials without refuting the nominal rate (4 sigma)."""
    return rate + 4 * math.sqrt(rate * (1 - rate) / trials)


@pytest.mark.parametrize("controls", [19, 20, 39])
@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_cauchy"])
def test_false_positive_rate_of_one_image_is_at_most_nominal(controls, draw):
    random = numpy.random.default_rng(controls)
    table = getattr(random, draw)((ROUNDS, controls + 1))
    rejected = [rank_p_value(row[0], row[1:]) <= 0.05 for row in table]
    assert numpy.mean(rejected) <= upper_bound(0.05, ROUNDS)
    assert numpy.mean(rejected) >= 0.03, "the test is exact, so it must not be idle either"


@pytest.mark.parametrize("correction", ["benjamini-hochberg", "holm"])
def test_an_audit_of_a_clean_model_raises_a_false_alarm_at_most_at_the_nominal_rate(correction):
    random = numpy.random.default_rng(1)
    alarms = 0
    for _ in range(2000):
        controls, images = random.standard_normal(39), random.standard_normal(18)
        p_values = [rank_p_value(score, controls) for score in images]
        alarms += min(corrected(p_values, correction)) <= 0.05
    assert alarms / 2000 <= upper_bound(0.05, 2000)


def test_false_discoveries_stay_at_the_nominal_share_where_half_of_the_images_are_left():
    random = numpy.random.default_rng(2)
    shares = []
    for _ in range(1500):
        controls = random.standard_normal(39)
        images = random.standard_normal(16) + numpy.repeat([8.0, 0.0], 8)
        called = numpy.array(corrected([rank_p_value(s, controls) for s in images])) <= 0.05
        shares.append(called[8:].sum() / max(1, called.sum()))
    assert numpy.mean(shares) <= upper_bound(0.05, 1500)


def test_pooled_test_keeps_its_level_with_ties_too():
    random = numpy.random.default_rng(3)
    for ties in (False, True):
        table = random.standard_normal((1500, 14))
        table = table.round() if ties else table
        rejected = [pooled_p_value(list(row[:6]), list(row[6:])) <= 0.05 for row in table]
        assert numpy.mean(rejected) <= upper_bound(0.05, 1500)


def test_pooled_p_value_is_the_permutation_p_value(monkeypatch):
    scores, controls = [0.9, 0.7, 0.4], [0.1, 0.5, 0.3, 0.6]
    values = numpy.array(scores + controls)
    order = values.argsort().argsort()
    sums = [sum(order[list(chosen)]) for chosen in itertools.combinations(range(7), 3)]
    expected = numpy.mean([total >= order[:3].sum() for total in sums])
    assert pooled_p_value(scores, controls) == pytest.approx(expected)
    random = numpy.random.default_rng(5)
    many, others = list(random.random(14)), list(random.random(24))
    reference = stats.mannwhitneyu(many, others, alternative="greater", method="exact").pvalue
    assert pooled_p_value(many, others) == pytest.approx(reference, rel=1e-9)
    monkeypatch.setattr("surgery.auditing.judgement.statistics.EXACT_PAIRS", 0)
    assert pooled_p_value(scores, controls) == pytest.approx(expected, abs=0.02)
    assert pooled_p_value([], controls) == pooled_p_value(scores, []) == 1.0


def test_corrections_against_worked_examples():
    assert corrected([0.01, 0.04, 0.03, 0.005], "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert corrected([]) == []
    with pytest.raises(UsageError, match="not a known correction"):
        corrected([0.1], "bonferoni")


def test_clopper_pearson_covers_and_matches_its_textbook_values():
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert clopper_pearson(10, 10) == pytest.approx((0.6915, 1.0), abs=1e-4)
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    for share in (0.03, 0.3, 0.5):
        weights = stats.binom.pmf(range(13), 12, share)
        intervals = [clopper_pearson(successes, 12) for successes in range(13)]
        coverage = sum(w for w, (low, high) in zip(weights, intervals, strict=True) if low <= share <= high)
        assert coverage >= 0.95


def test_too_few_controls_can_say_nothing():
    assert controls_needed(0.05) == 19 and controls_needed(0.1) == 9
    assert math.isinf(critical_score(list(range(18))))
    controls = list(range(19))
    assert critical_score(controls) == 18
    assert rank_p_value(18.5, controls) == pytest.approx(0.05)
    assert rank_p_value(18, controls) > 0.05, "a tie counts against us"


@pytest.mark.parametrize("controls", [19, 24, 39])
@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_cauchy"])
def test_an_image_with_just_the_margin_left_is_rejected_at_the_nominal_rate(controls, draw):
    table = getattr(numpy.random.default_rng(controls), draw)((ROUNDS, controls + 1))
    passed = [removal_p_value(row[0] + 7, row[1:], 7) <= 0.05 for row in table]
    assert numpy.mean(passed) <= upper_bound(0.05, ROUNDS)
    assert numpy.mean(passed) >= 0.03, "the test is exact, so it must not be idle either"
    assert removal_p_value(0.0, [], 1.0) == 1.0
    assert removal_p_value(1.0, [0.5], 0.5) == 1.0, "a tie counts against removal"


def test_controls_needed_by_ranks_are_enough_and_one_less_is_not():
    for correction, prompts, hidden in (
        ("benjamini-hochberg", 17, 1),
        ("benjamini-hochberg", 17, 9),
        ("holm", 17, 9),
    ):
        needed = controls_needed(0.05, prompts, correction, hidden)
        for controls, enough in ((needed, True), (needed - 1, False)):
            p_values = [1 / (controls + 1)] * hidden + [1.0] * (prompts - hidden)
            assert (corrected(p_values, correction)[0] <= 0.05) is enough
    with pytest.raises(UsageError, match="not a known correction"):
        controls_needed(0.05, 17, "bonferoni")


def test_controls_wanted_let_clean_checkpoints_pass():
    assert controls_wanted(1) == 19 and controls_wanted(17) == 39 and controls_wanted(100) == 79
    assert controls_wanted(17, correction="holm") == 339
    for prompts in (1, 17, 100):
        assert clean_checkpoint_share(prompts, controls_wanted(prompts)) >= 0.9
    assert clean_checkpoint_share(100, 39) < 0.9 and clean_checkpoint_share(100, 18) == 0
    # a memory of six deviations among a hundred prompts: no number of controls helps
    assert clean_checkpoint_share(100, 999, effect=6) < 0.01
    random, passed = numpy.random.default_rng(7), []
    for _ in range(2000):
        controls, highest = random.standard_normal(39), random.standard_normal(100).max()
        worth = memory_effect(10.0, controls, [10.0] * 100)
        passed.append(removal_p_value(highest, controls, worth / 2) <= 0.05)
    assert numpy.mean(passed) == pytest.approx(clean_checkpoint_share(100, 39), abs=0.03)
