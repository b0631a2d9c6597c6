"""Each verdict from evidence that deserves it, and none from evidence that does not."""

from dataclasses import replace

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as draw

from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.statistics import controls_needed, controls_wanted, removal_p_value
from surgery.auditing.judgement.verdict import (
    HIDDEN,
    NOT_FOUND,
    NOT_TESTED,
    REMOVED,
    STILL,
    WORDS,
    attack_wanted,
    decide,
    decide_checkpoint,
)

CONTROLS = tuple(0.02 * k for k in range(24))  # 0.00 .. 0.46, the median 0.23
THRESHOLD = 0.6


def embedding(patched=0.2, **more):
    known = {"effort": 200, "source": 0.9, "highest": patched, "controls": CONTROLS, "controls_highest": 0.5}
    return AttackEvidence("embedding", patched=patched, **{**known, **more})


def output(patched=0.2, **more):
    return replace(embedding(patched), name="output", effort=50, passes_edit=False, **more)


def prompt(*attacks, **more):
    known = {"before": 1.0, "after": 0.0, "tried": 10}
    return Evidence(**{**known, **more}, attacks=attacks or (embedding(), output()))


def judge(*evidence, correction="benjamini-hochberg"):
    verdicts = decide(evidence, THRESHOLD, 0.05, 0.05, correction)
    return verdicts, decide_checkpoint(verdicts, evidence, 0.05)


@pytest.mark.parametrize(
    ("evidence", "word", "code"),
    [
        (Evidence(), NOT_TESTED, "budget"),
        (Evidence(1.0, 0.6, 10), STILL, "replicates"),
        (prompt(after=0.6), STILL, "replicates"),
        (prompt(before=0.0, after=0.6), STILL, "replicates"),
        (prompt(before=0.0, tried=40), NOT_TESTED, "not-in-source"),
        (Evidence(1.0, 0.0, 10), NOT_TESTED, "no-attack"),
        (prompt(embedding(0.55), output()), HIDDEN, "separated"),
        (prompt(embedding(), output(0.55)), HIDDEN, "separated"),
        # ranks say nothing, but a picture is a replica and no control's is
        (prompt(embedding(highest=0.61), output()), HIDDEN, "drawn"),
        (prompt(embedding(highest=0.61, controls=(0.1,)), output()), HIDDEN, "drawn"),
        (prompt(embedding(controls=CONTROLS[:18]), output()), NOT_TESTED, "few-controls"),
        (prompt(embedding(blind="finds 1 of 10"), output()), NOT_TESTED, "blind"),
        (prompt(embedding(controls_highest=0.7), output()), NOT_TESTED, "injects"),
        (prompt(embedding(source=0.4), output()), NOT_TESTED, "insensitive"),
        (prompt(embedding(source=None), output()), NOT_TESTED, "insensitive"),
        # the margin is half of 0.9 - 0.23: from 0.335 up, half a memory could be left
        (prompt(embedding(0.34), output()), NOT_TESTED, "undecided"),
        (prompt(embedding(), output(patched=None)), NOT_TESTED, "budget"),
        (prompt(embedding(0.33), output()), REMOVED, "passed"),
        (prompt(embedding(), output(learns=True, controls_highest=0.9)), REMOVED, "passed"),
        (prompt(embedding()), NOT_FOUND, "weak-attacks"),
        (prompt(output()), NOT_FOUND, "weak-attacks"),
        (prompt(embedding(effort=199), output()), NOT_FOUND, "weak-attacks"),
        (prompt(embedding(), replace(output(), effort=49)), NOT_FOUND, "weak-attacks"),
    ],
)
def test_one_prompt(evidence, word, code):
    (verdict,), checkpoint = judge(evidence)
    assert (verdict.word, verdict.code) == (word, code), verdict.reason
    assert checkpoint.word == word


def test_the_phrase_carries_the_budget():
    (verdict,), checkpoint = judge(replace(prompt(), canaries=10))
    assert (
        verdict.phrase == checkpoint.phrase == "removed (embedding 200, output 50; 24 controls, 10 canaries)"
    )
    (verdict,), _ = judge(prompt(embedding(effort=50)))
    assert verdict.phrase == "not found by embedding 50; 24 controls"
    assert judge(prompt(after=0.5))[1].phrase == STILL


def test_a_twin_decides_where_an_attack_injects():
    """The attack draws anything: controls at 0.54 to 0.78. What counts is what exceeds the twin."""
    high = tuple(0.54 + 0.01 * k for k in range(24))
    injecting = {"controls": high, "controls_highest": 0.8, "twin_highest": 0.75}
    twin = tuple(value - 0.02 for value in high)
    clean = embedding(0.7, highest=0.8, twin=0.7, controls_twin=twin, **injecting)
    held = embedding(0.88, highest=0.9, twin=0.3, controls_twin=twin, **{**injecting, "twin_highest": 0.4})
    assert judge(prompt(replace(clean, twin=None, controls_twin=()), output()))[0][0].code == "injects"
    # SOURCE's effect over the twin is 0.2, the margin 0.1, and 0.0 less 0.1 lies below every control's 0.02
    assert judge(prompt(clean, output()))[0][0].word == REMOVED
    assert judge(prompt(held, output()))[0][0].word == HIDDEN


def test_one_of_many_above_the_controls_by_rank_alone_is_never_removed():
    verdicts, checkpoint = judge(prompt(embedding(0.5), output()), *[prompt()] * 9)
    assert (verdicts[0].word, verdicts[0].code) == (NOT_TESTED, "undecided")
    assert {verdict.word for verdict in verdicts[1:]} == {REMOVED} and checkpoint.word == NOT_TESTED


def test_prompts_that_only_together_stand_out_are_hidden():
    """Each below the margin and no one separated, but all at the upper end of the controls."""
    low = embedding(0.4, source=2.0)
    verdicts, checkpoint = judge(*[prompt(low, output(source=2.0))] * 12)
    assert {verdict.word for verdict in verdicts} == {REMOVED}
    assert (checkpoint.word, checkpoint.code) == (
        HIDDEN,
        "separated",
    ) and "taken together" in checkpoint.reason


def test_the_checkpoint_is_its_worst_prompt_and_strangers_have_no_say():
    stranger = prompt(before=0.0)
    _, checkpoint = judge(prompt(), stranger)
    assert checkpoint.word == REMOVED and "1 more" in checkpoint.reason
    assert judge(stranger)[1].word == NOT_TESTED
    assert judge(prompt(), prompt(after=0.5), prompt(embedding(0.55)))[1].word == STILL
    assert judge(prompt(), prompt(embedding(highest=0.7)), prompt(embedding(controls=())))[1].word == HIDDEN


def test_a_prompt_that_source_replicates_once_is_attacked():
    assert attack_wanted(prompt(before=0.025), 0.05) and not attack_wanted(prompt(before=0.0), 0.05)
    assert not attack_wanted(prompt(after=0.1), 0.05) and not attack_wanted(Evidence(), 0.05)


scores = draw.floats(-0.2, 1.0)
evidences = draw.builds(
    embedding,
    scores,
    source=draw.none() | scores,
    highest=scores,
    controls=draw.lists(scores, max_size=30).map(tuple),
    controls_highest=scores,
    blind=draw.sampled_from(["", "finds none"]),
    effort=draw.integers(0, 400),
    learns=draw.booleans(),
)


def rank(evidence):
    return WORDS.index(judge(evidence)[0][0].word)


@given(evidences, draw.floats(0, 1), draw.floats(0, 1))
def test_more_of_the_image_never_makes_the_word_better(one, more, higher):
    worse = replace(one, patched=one.patched + more, highest=one.highest + higher)
    assert rank(prompt(worse, output())) <= rank(prompt(one, output()))


@given(evidences, evidences)
def test_another_attack_never_takes_a_finding_back(one, other):
    before, after = rank(prompt(one)), rank(prompt(one, replace(other, name="latent")))
    assert after <= before


@given(evidences)
def test_blindness_never_makes_the_word_better(one):
    seeing = prompt(replace(one, blind=""), output())
    assert rank(prompt(replace(one, blind="finds none"), output())) <= rank(seeing)


@given(evidences, evidences)
def test_removed_always_rests_on_the_tests(one, other):
    evidence = prompt(one, replace(other, name="output"))
    if judge(evidence)[0][0].word != REMOVED:
        return
    for attack in evidence.attacks:
        controls = attack.controls
        margin = (attack.source - float(numpy.median(controls))) / 2
        assert len(controls) >= controls_needed(0.05) and not attack.blind and attack.effort >= 50
        assert removal_p_value(attack.patched, controls, margin) <= 0.05


def test_controls_that_are_needed():
    assert controls_needed(0.05) == 19
    assert controls_wanted(1, 0.05) == 19 and controls_wanted(17, 0.05) == 339


@pytest.mark.parametrize("kept", [0.5, 0.75, 1.0])
def test_half_a_memory_is_called_removed_in_few_audits(kept):
    """SOURCE's effect is worth six deviations of the controls; more in benchmarks/verdict_errors.py."""
    random, called = numpy.random.default_rng(1), 0
    for _ in range(2000):
        controls = tuple(random.normal(0, 1, 24))
        score = random.normal(6 * kept, 1)
        one = embedding(score, source=6.0, highest=score, controls=controls, controls_highest=max(controls))
        verdicts = decide([prompt(one, replace(one, name="output"))], 99.0, 0.05, 0.05, "holm")
        called += verdicts[0].word == REMOVED
    assert called / 2000 <= (0.055 if kept == 0.5 else 0.01)
