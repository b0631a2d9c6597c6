"""The fast refinement against brute force: the published set, else a caught contradiction."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets_of_neurons import BIT, FULL, LAYERS, NEURONS, anything, monotone, published, subsets

from surgery.localization.search import monotone as monotone_module
from surgery.localization.search.certificate import find_certificate, refine_fast
from surgery.localization.search.evaluation import Answer
from surgery.localization.search.monotone import MonotoneOracle, NotMonotone
from surgery.localization.search.selection import walk_order, without_duplicates


def oracle_of(breaks):
    oracle = MonotoneOracle(lambda off: Answer(breaks(off), 0.0 if breaks(off) else 1.0, True), 0.5)
    oracle.learn(FULL, Answer(True, 0.0, True))
    oracle.learn(0, Answer(False, 1.0, True))
    return oracle


def fast(ranked, oracle, listed=NEURONS):
    order = [BIT[n] for n in walk_order(without_duplicates(listed))]
    layers = [sum(BIT[n] for n in NEURONS if n[0] == layer) for layer in reversed(LAYERS)]
    return refine_fast(order, layers, ranked, find_certificate(ranked, FULL, oracle), oracle)


@given(monotone, st.permutations(list(BIT.values())))
@settings(max_examples=300, deadline=None)
def test_fast_refinement_finds_the_published_set_whatever_the_ranking(breaks, ranked):
    assert fast(ranked, oracle_of(breaks)) == published(breaks)


@given(subsets.filter(lambda needed: needed.bit_count() <= len(NEURONS) // 2))
@settings(max_examples=100, deadline=None)
def test_a_good_ranking_needs_one_test_per_neuron_that_stays(needed):
    oracle = oracle_of(lambda off: off & needed == needed)
    ranked = sorted(BIT.values(), key=lambda bit: not bit & needed)
    assert fast(ranked, oracle) == needed
    kept = needed.bit_count()
    # one per kept neuron, one for the certificate, and the gallop and bisection that find its size
    assert len(oracle.known) - 2 <= kept + 1 + 2 * kept.bit_length()


def test_a_group_of_neurons_leaves_by_a_logarithm_of_tests():
    # The ranking is useless: it takes the first half for the needed one; one neuron of it would do.
    order = [1 << place for place in range(256)]
    half = (1 << 128) - 1
    everything = (1 << 256) - 1
    needed = order[100]
    oracle = MonotoneOracle(lambda off: Answer(bool(off & needed), 0.0 if off & needed else 1.0, True), 0.5)
    assert refine_fast(order, [everything], order, half, oracle) == needed
    assert len(oracle.known) <= 4 * 8


def test_a_large_initial_set_takes_less_than_three_tests_per_neuron_that_stays():
    # 21 of 675 neurons in seven layers: the published medians of template prompts.
    chance = random.Random(0)
    order = [1 << place for place in range(675)]
    needed = sum(chance.sample(order, 21))
    everything = sum(order)
    rank = {bit: chance.random() * (1.0 if bit & needed else 200.0) for bit in order}
    ranked = sorted(order, key=rank.get)  # the z-scores point at them, with a few others in between
    oracle = MonotoneOracle(
        lambda off: Answer(off & needed == needed, 0.0 if off & needed == needed else 1.0, True), 0.5
    )
    oracle.learn(everything, Answer(True, 0.0, True))
    oracle.learn(0, Answer(False, 1.0, True))
    layers = [sum(order[start : start + 97]) for start in range(0, 675, 97)]
    certificate = find_certificate(ranked, everything, oracle)
    assert refine_fast(order, layers, ranked, certificate, oracle) == needed
    oracle.verify(spot_checks=True)
    assert len(oracle.known) - 2 <= 3 * (21 + 1)


@given(anything, st.permutations(list(BIT.values())))
@settings(max_examples=300, deadline=None)
def test_what_passes_the_checks_was_not_contradicted(breaks, ranked):
    oracle = oracle_of(breaks)
    try:
        fast(ranked, oracle)
        oracle.verify(spot_checks=True)
    except NotMonotone:
        return
    assert all(answer.broken == breaks(off) for off, answer in oracle.known.items())
    assert all(oracle.infer(off) is implied for off, implied in oracle.inferred.items())


FEW = NEURONS[:6]


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=64, max_size=64),
    st.floats(0.05, 0.6),
    st.lists(st.sampled_from(FEW), max_size=4),
    st.permutations([BIT[neuron] for neuron in FEW]),
)
@settings(max_examples=300, deadline=None)
def test_with_the_true_wobble_any_function_gives_the_published_set(noise, strength, copies, ranked):
    # Scores that fall with the size, and noise on them: not monotone, duplicates included.
    full = 63
    score = {off: 1 - off.bit_count() / 6 + strength * noise[off] for off in range(64)}
    score[0], score[full] = 2.0, -1.0
    nested = [(small, large) for small in score for large in score if small & large == small]
    listed = sorted([*FEW, *copies], key=lambda neuron: LAYERS.index(neuron[0]))
    oracle = MonotoneOracle(lambda off: Answer(score[off] < 0.5, score[off], True), 0.5)
    oracle.wobble = max(score[large] - score[small] for small, large in nested)
    oracle.learn(full, Answer(True, -1.0, True))
    oracle.learn(0, Answer(False, 2.0, True))
    layers = [15, full & ~15][::-1]
    order = [BIT[n] for n in walk_order(without_duplicates(listed))]
    certificate = find_certificate(ranked, full, oracle)
    found = refine_fast(order, layers, ranked, certificate, oracle)
    assert found == published(lambda off: score[off] < 0.5, listed)


def test_a_wrongly_inferred_answer_is_caught_by_the_spot_check(monkeypatch):
    monkeypatch.setattr(monotone_module, "INFERRED_PER_SPOT_CHECK", 1)
    # {first} breaks, and so does the full set; everything between does not.
    first = BIT[NEURONS[0]]
    oracle = oracle_of(lambda off: off in (first, FULL))
    assert fast(list(BIT.values()), oracle) == first
    oracle.verify(spot_checks=False)
    with pytest.raises(NotMonotone):
        oracle.verify(spot_checks=True)


def test_an_answer_inferred_before_the_wobble_was_seen_is_tested_after_all():
    scores = {0: 1.0, 1: 0.4, 3: 0.6, 4: 0.7, 12: 0.95}
    oracle = MonotoneOracle(lambda off: Answer(scores[off] < 0.5, scores[off], True), 0.5)
    assert oracle.guess(1)
    assert oracle.ask(3) is True  # inferred, and wrong
    assert not oracle.guess(4)
    assert not oracle.guess(12)  # a larger set scores 0.25 higher
    assert oracle.wobble == pytest.approx(0.25)
    with pytest.raises(NotMonotone):
        oracle.verify(spot_checks=False)


def test_nothing_is_inferred_from_a_score_within_two_wobbles_of_the_threshold():
    oracle = MonotoneOracle(lambda off: Answer(False, 0.9, True), 0.5, wobble=0.06)
    oracle.learn(1, Answer(True, 0.4, True))
    assert oracle.infer(3) is None
    oracle.learn(4, Answer(True, 0.3, True))
    assert oracle.infer(12) is True


def test_an_early_stop_is_no_proof_that_the_smaller_set_scores_low():
    oracle = MonotoneOracle(lambda off: Answer(False, 0.3, False), 0.2)
    assert not oracle.guess(1)
    oracle.learn(3, Answer(False, 0.9, True))
    assert oracle.wobble == 0
