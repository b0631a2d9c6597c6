"""The second look: what passes the gate by chance or by nature ends without neurons, memories never do."""

import dataclasses

import numpy
import planted_model
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from planted_model import PLANTED, caption

from surgery.errors import UsageError
from surgery.localization.localize import localize
from surgery.localization.records import LOCALIZED, NOT_MEMORIZED, PromptRecord
from surgery.localization.second_look import (
    BY_NATURE,
    FALSE_ALARM,
    PARTS,
    SecondLook,
    corrected,
    neighbors_of,
    upper_tail,
)
from surgery.localization.settings import LocalizeSettings
from surgery.neurons import NeuronSet

ORDINARY = planted_model.ordinary_captions(4, seed=5)
# Each of three words makes all seeds alike: dropping one, or turning them round, changes nothing.
ALIKE = "v w x"
WORDS = some.lists(some.text("abc", min_size=1, max_size=3), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(WORDS)
def test_neighbors_are_the_caption_without_a_part_or_turned_round(words):
    prompt = " ".join(words)
    found = neighbors_of(prompt)
    assert prompt not in found
    assert len(found) == len(set(found)) <= PARTS + 1
    for one in found:
        left = one.split()
        assert sorted(left) == sorted(words) or 0 < len(left) < len(words)
    for word in set(words) if len(words) > 1 else ():
        if words.count(word) == 1:
            assert any(word not in one.split() for one in found), "every word is missing somewhere"
    assert bool(found) or len(words) == 1


@settings(max_examples=10, deadline=None)
@given(some.integers(0, 10**6), some.sampled_from([8, 16, 64]), some.sampled_from([0.01, 0.05, 0.2]))
def test_an_ordinary_prompt_has_a_p_value_below_any_level_as_often_as_that_level_says(seed, count, level):
    random, runs = numpy.random.default_rng(seed), 1500
    ordinary = random.normal(0.1, 0.03, size=(runs, count))
    fresh = random.normal(0.1, 0.03, size=runs)
    p_values = [
        upper_tail(new, known.mean(), known.std(ddof=1), count)
        for new, known in zip(fresh, ordinary, strict=True)
    ]
    share = numpy.mean(numpy.array(p_values) <= level)
    assert abs(share - level) <= 4 * (level * (1 - level) / runs) ** 0.5


def record(number, p_value):
    """A searched prompt with that p-value; None for one that the gate stopped."""
    if p_value is None:
        return PromptRecord(f"{number}", NOT_MEMORIZED, 0.1, details={"evaluations": 1, "work": {}})
    look = {"score": 0.5, "p_value": p_value, "neighbors": 3, "lowest_neighbor": 0.1}
    details = {"second_look": look, "kept_seeds": [0], "evaluations": 4, "work": {}}
    neurons = NeuronSet({"a": (1,)})
    return PromptRecord(f"{number}", LOCALIZED, 0.5, 0.1, neurons, neurons, details)


def test_ordinary_corpora_end_without_neurons_and_memories_always_stay():
    random, rate, with_any, shares, memories_kept = numpy.random.default_rng(1), 0.05, 0, [], 0
    for _ in range(300):
        ordinary = random.random(200)
        # the gate lets those below 0.05 through: p-values of all others are 1
        records = [record(number, p if p < 0.05 else None) for number, p in enumerate(ordinary)]
        with_any += any(one.outcome == LOCALIZED for one in corrected(records, rate))
        both = corrected([*records, *(record(300 + number, 1e-12) for number in range(10))], rate)
        memories_kept += sum(one.outcome == LOCALIZED for one in both[200:])
        false = sum(one.outcome == LOCALIZED for one in both[:200])
        shares.append(false / (false + 10))
    assert with_any / 300 <= rate + 3 * (rate * (1 - rate) / 300) ** 0.5
    assert memories_kept == 300 * 10
    assert numpy.mean(shares) <= rate + 3 * numpy.std(shares) / 300**0.5


def test_what_fails_the_correction_keeps_its_place_and_loses_its_neurons():
    records = [record(0, None), record(1, 0.04), record(2, 1e-9), *(record(n, None) for n in range(3, 40))]
    found = corrected(records, 0.05)
    assert [one.prompt for one in found] == [one.prompt for one in records]
    assert found[1].outcome == NOT_MEMORIZED
    assert not found[1].refined
    assert found[1].details["reason"] == FALSE_ALARM
    assert found[1].details["second_look"]["corrected"] == pytest.approx(0.04 * 40 / 2)
    assert found[2].outcome == LOCALIZED
    assert PromptRecord.from_json(found[1].as_json()) == found[1]
    assert corrected([record(0, None)], 0.05) == [record(0, None)]


@pytest.fixture(scope="module")
def low_gate(planted, calibration):
    """A run whose gate lets every prompt through."""
    corpus = [*map(caption, PLANTED), *ORDINARY, ALIKE]
    chosen = LocalizeSettings(gate_threshold=-1.0)
    return localize(planted, corpus, settings=chosen, calibration=calibration)


def test_ordinary_prompts_that_pass_the_gate_end_without_neurons(low_gate):
    outcomes = {one.prompt: (one.outcome, one.details.get("reason")) for one in low_gate.records}
    assert {outcomes[prompt] for prompt in ORDINARY} == {(NOT_MEMORIZED, FALSE_ALARM)}
    assert low_gate.evidence["reasons"] == {FALSE_ALARM: len(ORDINARY), BY_NATURE: 1}


def test_no_memory_is_lost_and_none_is_called_nature(low_gate):
    found = {one.prompt: one for one in low_gate.records}
    for trigger, pairs in PLANTED.items():
        one = found[caption(trigger)]
        assert one.outcome == LOCALIZED
        assert set(one.refined.pairs()) <= set(pairs)
        assert one.details["second_look"]["lowest_neighbor"] < one.details["second_look"]["score"] / 2
        assert one.details["second_look"]["corrected"] < 0.01


def test_a_caption_that_is_alike_with_any_word_missing_is_alike_by_nature(low_gate, planted, calibration):
    one = next(one for one in low_gate.records if one.prompt == ALIKE)
    assert (one.outcome, one.details["reason"]) == (NOT_MEMORIZED, BY_NATURE)
    assert one.details["second_look"]["neighbors"] == 4
    searched = localize(
        planted, [ALIKE], settings=LocalizeSettings(second_look=False), calibration=calibration
    ).records[0]
    assert searched.outcome != NOT_MEMORIZED
    assert "second_look" not in searched.details


def test_the_reference_strategy_takes_no_second_look(planted, calibration):
    for chosen in (
        LocalizeSettings(strategy="reference"),
        LocalizeSettings(confirm_seeds=0),
        LocalizeSettings(second_look=False),
    ):
        assert SecondLook.of(planted, calibration, chosen) is None
    few = {name: dataclasses.replace(one, count=5) for name, one in calibration.scores.items()}
    assert SecondLook.of(planted, dataclasses.replace(calibration, scores=few), LocalizeSettings()) is None
    with pytest.raises(UsageError, match="give one between 0 and 1"):
        LocalizeSettings(false_discovery_rate=1.0)
