"""The fast searches against brute force: the same set on monotone functions, else a caught contradiction."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.localization import search
from surgery.localization.evaluation import Answer
from surgery.localization.refinement import refine
from surgery.localization.search import MonotoneOracle, NotMonotone, refine_fast
from surgery.localization.selection import Descent, gallop, walk, without_duplicates
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
    oracle = MonotoneOracle(lambda off: Answer(breaks(off), 0.0 if breaks(off) else 1.0, True))
    oracle.learn(FULL, Answer(True, 0.0, True))
    oracle.learn(0, Answer(False, 1.0, True))
    return oracle


def fast(breaks, ranked, oracle=None):
    by_layer = [[n for n in NEURONS if n[0] == layer] for layer in reversed(LAYERS)]
    oracle = oracle or oracle_of(breaks)
    return refine_fast(
        [BIT[n] for members in by_layer for n in members],
        [sum(BIT[n] for n in members) for members in by_layer],
        ranked,
        oracle,
    )


def published(breaks):
    kept = refine(NEURONS, lambda off: breaks(sum(BIT[pair] for pair in off.pairs())))
    return sum(BIT[neuron] for neuron in kept)


@given(monotone, st.permutations(list(BIT.values())))
@settings(max_examples=300, deadline=None)
def test_fast_refinement_finds_the_published_set_whatever_the_ranking(breaks, ranked):
    assert fast(breaks, ranked) == published(breaks)


@given(subsets)
@settings(max_examples=100, deadline=None)
def test_a_good_ranking_needs_one_test_per_neuron_that_stays(needed):
    oracle = oracle_of(lambda off: off & needed == needed)
    ranked = sorted(BIT.values(), key=lambda bit: not bit & needed)
    assert fast(None, ranked, oracle) == needed
    kept = needed.bit_count()
    # one per kept neuron, one for the certificate, and the gallop and bisection that find its size
    assert len(oracle.known) - 2 <= kept + 1 + 2 * kept.bit_length()


@given(anything, st.permutations(list(BIT.values())))
@settings(max_examples=300, deadline=None)
def test_what_passes_the_checks_was_not_contradicted(breaks, ranked):
    oracle = oracle_of(breaks)
    try:
        found = fast(breaks, ranked, oracle)
        oracle.spot_check()
    except NotMonotone:
        return
    assert all(answer.broken == breaks(off) for off, answer in oracle.known.items())
    assert oracle.infer(found) is True


def test_a_wrongly_inferred_answer_is_caught_by_the_spot_check(monkeypatch):
    monkeypatch.setattr(search, "INFERRED_PER_SPOT_CHECK", 1)
    # {first} breaks, and so does the full set; everything between does not.
    first = BIT[NEURONS[0]]
    oracle = oracle_of(lambda off: off in (first, FULL))
    assert fast(None, list(BIT.values()), oracle) == first
    with pytest.raises(NotMonotone):
        oracle.spot_check()


def test_scores_that_rise_with_the_set_are_caught_as_they_come():
    oracle = MonotoneOracle(lambda off: Answer(False, 0.3 if off == 1 else 0.9, True))
    assert not oracle.breaks(1)
    with pytest.raises(NotMonotone):
        oracle.learn(3, Answer(False, 0.9, True))


def test_an_early_stop_is_no_proof_that_the_smaller_set_scores_low():
    oracle = MonotoneOracle(lambda off: Answer(False, 0.3, False))
    assert not oracle.breaks(1)
    assert oracle.learn(3, Answer(False, 0.9, True)) is False


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

    expected = walk(descent, score, 0.2)
    found = gallop(descent, test, score)
    assert found == expected
    assert len(tested) <= 2 * expected.steps.bit_length() + 1
    guessed = gallop(descent, test, score, descent.likely())
    assert dataclasses.replace(guessed, score=None) == dataclasses.replace(expected, score=None)


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
    # after 1, keeps it off while 1 is tested, so that 1 leaves instead.
    def breaks(neurons):
        return neurons.count > 0

    assert refine([("a", 0), ("a", 1)], breaks) == [("a", 1)]
    assert refine([("a", 0), ("a", 1), ("a", 0)], breaks) == [("a", 0)]
    assert without_duplicates([("a", 0), ("a", 1), ("a", 0)]) == [("a", 1), ("a", 0)]


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
    assert Descent(activation, z, LocalizeSettings(use_top_k=False)).last == 16


def test_an_unresolved_descent_ends_at_its_last_step_with_the_score_reached():
    descent = random_descent(1)
    selection = walk(descent, lambda neurons: 0.5, 0.2)
    assert (selection.resolved, selection.score, selection.steps) == (False, 0.5, descent.last + 1)
    assert gallop(descent, lambda neurons: Answer(False, 0.5, True), lambda neurons: 0.5) == selection
    assert NeuronSet.from_pairs(selection.neurons).count == 36
