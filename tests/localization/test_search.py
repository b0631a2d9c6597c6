"""The fast searches against brute force: the same set on monotone functions, else a caught contradiction."""

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.localization.search import monotone as monotone_module
from surgery.localization.search.certificate import find_certificate, refine_fast
from surgery.localization.search.evaluation import Answer
from surgery.localization.search.monotone import MonotoneOracle, NotMonotone
from surgery.localization.search.published_walk import refine, select
from surgery.localization.search.selection import Descent, gallop, walk_order, without_duplicates
from surgery.localization.settings import LocalizeSettings
from surgery.neurons import NeuronSet

LAYERS = ("down", "middle", "up")
NEURONS = [(layer, row) for layer in LAYERS for row in range(4)]
BIT = {neuron: 1 << place for place, neuron in enumerate(NEURONS)}
FULL = (1 << len(NEURONS)) - 1

subsets = st.integers(1, FULL)
# A monotone function is given by the sets that just suffice: a set breaks if it holds one of them.
monotone = st.lists(subsets, min_size=1, max_size=4).map(
    lambda enough: lambda off: any(some & off == some for some in enough)
)
# Any function at all, as long as the full set breaks and the empty one does not.
anything = st.integers(0, 2**32).map(
    lambda salt: lambda off: off == FULL or (off != 0 and hash((salt, off)) % 3 != 0)
)


def oracle_of(breaks):
    oracle = MonotoneOracle(lambda off: Answer(breaks(off), 0.0 if breaks(off) else 1.0, True), 0.5)
    oracle.learn(FULL, Answer(True, 0.0, True))
    oracle.learn(0, Answer(False, 1.0, True))
    return oracle


def fast(ranked, oracle, listed=NEURONS):
    order = [BIT[n] for n in walk_order(without_duplicates(listed))]
    layers = [sum(BIT[n] for n in NEURONS if n[0] == layer) for layer in reversed(LAYERS)]
    return refine_fast(order, layers, ranked, find_certificate(ranked, FULL, oracle), oracle)


def published(breaks, listed=NEURONS):
    kept = refine(listed, lambda off: breaks(sum(BIT[pair] for pair in off.pairs())))
    return sum(BIT[neuron] for neuron in kept)


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


def random_descent(seed, **changes):
    generator = torch.Generator().manual_seed(seed)
    z = {layer: torch.rand(12, generator=generator) * 6 for layer in LAYERS}
    activation = {layer: torch.rand(12, generator=generator) for layer in LAYERS}
    return Descent(activation, z, LocalizeSettings(**changes))


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 35), min_size=1, max_size=4),
    st.sampled_from(
        [{}, {"use_theta": False}, {"use_top_k": False}, {"top_k_start": 3}, {"theta_step": 0.7}]
    ),
)
@settings(max_examples=200, deadline=None)
def test_galloping_stops_at_the_published_step(seed, needed, changes):
    descent = random_descent(seed, **changes)
    wanted = {(LAYERS[place % 3], place // 3) for place in needed}

    def score(neurons):
        return 0.9 - 0.8 * len(wanted & set(neurons.pairs())) / len(wanted)

    tested = []

    def test(neurons):
        tested.append(neurons)
        return Answer(score(neurons) <= 0.2, score(neurons), True)

    expected = select(descent, score, 0.2)
    found = gallop(descent, test, score, 0.2)
    assert found == expected
    assert len(tested) <= (2 * expected.steps.bit_length() + 1 if found.resolved else expected.steps)
    guessed = gallop(descent, test, score, 0.2, descent.likely())
    assert dataclasses.replace(guessed, score=None) == dataclasses.replace(expected, score=None)


def test_of_the_first_step_the_likeliest_neuron_is_guessed_first_then_all_others():
    z = {"a": torch.tensor([6.0, 9.0, 0.0]), "b": torch.tensor([5.5, 1.0, 0.0])}
    descent = Descent(z, z, LocalizeSettings())
    assert descent.likely() == [[("a", 1)], [("a", 0), ("b", 0)]]
    assert Descent(z, z, LocalizeSettings(theta_start=8.0)).likely() == []
    for needed, tests in ([("a", 1)], 1), ([("b", 0)], 2), ([("a", 1), ("b", 0)], 3):
        tested = []

        def score(neurons, needed=needed):
            return 1.0 - len({*needed} & {*neurons.pairs()}) / len(needed)

        def test(neurons, tested=tested, score=score):
            tested.append(neurons)
            return Answer(score(neurons) <= 0.2, score(neurons), True)

        assert gallop(descent, test, score, 0.2, descent.likely()).neurons == descent.neurons(0)
        assert len(tested) == tests


def of_steps(descent, scores):
    """Scores by step, as a function of the set."""
    by_set: dict[NeuronSet, float] = {}
    for number, score in scores.items():  # late steps can hold the same set
        neurons = NeuronSet.from_pairs(descent.neurons(number))
        by_set[neurons] = min(score, by_set.get(neurons, score))
    return lambda neurons: by_set[neurons]


@given(st.integers(0, 10_000), st.lists(st.floats(0.21, 1), min_size=20, max_size=20), st.integers(0, 11))
@settings(max_examples=100, deadline=None)
def test_an_unresolved_end_is_never_taken_for_granted(seed, high, low):
    # Only one step breaks the memory, wherever it lies: the gallop may leap over it.
    descent = random_descent(seed)
    scores = dict(enumerate(high[: descent.last + 1]))
    scores[min(low, descent.last)] = 0.1
    score = of_steps(descent, scores)
    expected = select(descent, score, 0.2)
    assert expected.resolved
    assert gallop(descent, lambda off: Answer(score(off) <= 0.2, score(off), True), score, 0.2) == expected


def test_a_step_leapt_over_is_tested_where_the_scores_do_not_fall():
    descent = random_descent(1)
    scores = dict(enumerate([0.9, 0.3, 0.1, 0.5, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1][: descent.last + 1]))
    score = of_steps(descent, scores)
    found = gallop(descent, lambda off: Answer(score(off) <= 0.2, score(off), True), score, 0.2)
    assert found == select(descent, score, 0.2)
    assert found.steps == 3


def test_the_published_refinement_tests_late_layers_first_and_layers_before_neurons():
    asked = []

    def breaks(neurons):
        asked.append(neurons.as_json())
        return {("a", 0)} <= set(neurons.pairs())

    assert refine([("a", 0), ("a", 1), ("b", 2)], breaks) == [("a", 0)]
    assert asked == [
        {"a": [0, 1]},  # layer b is re-enabled and leaves
        {},  # layer a is needed
        {"a": [1]},  # so is its neuron 0
        {"a": [0]},  # neuron 1 leaves
    ]


def test_a_duplicated_neuron_stays_off_until_its_last_copy_is_tested():
    # Either neuron is enough. Without the duplicate, 0 would be tested first and leave; its second copy,
    # after 1, keeps it off while 1 is tested, so that 1 leaves instead. The test of the first copy is one of
    # the same set again.
    def breaks(neurons):
        return neurons.count > 0

    assert refine([("a", 0), ("a", 1)], breaks) == [("a", 1)]
    assert refine([("a", 0), ("a", 1), ("a", 0)], breaks) == [("a", 0)]
    assert without_duplicates([("a", 0), ("a", 1), ("a", 0)]) == [("a", 1), ("a", 0)]


def test_a_duplicate_stays_where_the_set_at_hand_does_not_score_below_the_threshold():
    # Unresolved: the threshold is the initial set's own score. Both tests of 0 are of that same set, until 1,
    # which harms, has left; without the duplicate 0 would have been tested by itself, and left.
    scores = {(0, 1): 0.5, (0,): 0.4, (1,): 0.45, (): 0.9}

    def breaks(neurons):
        return scores[tuple(row for _, row in neurons.pairs())] < 0.5

    assert refine([("a", 0), ("a", 1)], breaks) == [("a", 1)]
    assert refine([("a", 0), ("a", 0), ("a", 1)], breaks) == [("a", 0)]


@given(monotone, st.lists(st.sampled_from(NEURONS), max_size=6))
@settings(max_examples=200, deadline=None)
def test_the_last_copy_of_a_duplicate_decides(breaks, copies):
    listed = [*NEURONS, *copies]
    listed.sort(key=lambda neuron: LAYERS.index(neuron[0]))

    def of(neurons):
        return breaks(sum(BIT[pair] for pair in neurons.pairs()))

    assert set(refine(listed, of)) == set(refine(without_duplicates(listed), of))


def test_selection_takes_z_scores_above_theta_and_the_most_active_of_each_layer():
    z = {"a": torch.tensor([4.9, 5.1, 0.0]), "b": torch.tensor([5.0, 1.0, 9.0])}
    activation = {"a": torch.tensor([0.1, 0.5, 0.3]), "b": torch.tensor([0.2, 0.9, 0.4])}
    descent = Descent(activation, z, LocalizeSettings())
    assert descent.neurons(0) == [("a", 1), ("b", 2)]
    # theta 4.5 and two per layer: the z-score's rows first, then the most active ones, duplicates kept
    assert descent.neurons(2) == [
        ("a", 0),
        ("a", 1),
        ("a", 1),
        ("a", 2),
        ("b", 0),
        ("b", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert [descent.step(number).theta for number in (0, 1, 16, 17)] == [5.0, 4.75, 1.0, 1.0]
    assert descent.last == 3  # three rows a layer: k cannot grow further
    # The step that would have theta at its minimum, or k at its maximum, is not tested any more.
    assert Descent(activation, z, LocalizeSettings(use_top_k=False)).last == 15
    assert Descent(activation, z, LocalizeSettings(top_k_maximum=3)).last == 2
    assert Descent(activation, z, LocalizeSettings(theta_start=1.0)).last == 0


def test_an_unresolved_descent_ends_at_its_last_step_with_the_score_reached():
    descent = random_descent(1)
    selection = select(descent, lambda neurons: 0.5, 0.2)
    assert (selection.resolved, selection.score, selection.steps) == (False, 0.5, descent.last + 1)
    assert gallop(descent, lambda neurons: Answer(False, 0.5, True), lambda neurons: 0.5, 0.2) == selection
    assert NeuronSet.from_pairs(selection.neurons).count == 36
