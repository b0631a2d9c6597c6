"""The initial selection: what each step takes, and galloping, which ends where walking does."""

import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sets_of_neurons import LAYERS

from surgery.localization.search.evaluation import Answer
from surgery.localization.search.published_walk import select
from surgery.localization.search.selection import Descent, gallop
from surgery.localization.settings import LocalizeSettings
from surgery.neurons import NeuronSet


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
