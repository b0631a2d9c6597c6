"""Each verdict from evidence that deserves it, and none from evidence that does not."""

from dataclasses import replace

import numpy
import pytest

from surgery.auditing.judgement.verdict import (
    HIDDEN,
    NOT_TESTED,
    REMOVED,
    STILL,
    Evidence,
    decide,
    decide_checkpoint,
)

CONTROLS = [0.2 + 0.01 * k for k in range(20)]  # 0.20 .. 0.39


def judge(*evidence, controls=CONTROLS, correction="benjamini-hochberg"):
    evidence = [replace(one, controls=one.controls or tuple(controls)) for one in evidence]
    verdicts = decide(evidence, 0.05, 0.05, correction)
    return verdicts, decide_checkpoint(verdicts, evidence, 0.05)


def attacked(patched, source=0.9):
    return Evidence(1.0, 0.0, source, patched)


@pytest.mark.parametrize(
    ("evidence", "word", "code"),
    [
        (Evidence(1.0, 0.6), STILL, "replicates"),
        (Evidence(1.0, 0.6, 0.9, 0.3), STILL, "replicates"),
        (Evidence(), NOT_TESTED, "budget"),
        (Evidence(0.0, 0.0), NOT_TESTED, "not-in-source"),
        (Evidence(1.0, 0.0), NOT_TESTED, "no-attack"),
        (attacked(0.8), HIDDEN, "separated"),
        (attacked(0.3), REMOVED, "indistinguishable"),
        (attacked(0.3, source=0.35), NOT_TESTED, "insensitive"),
        (attacked(0.3, source=None), NOT_TESTED, "insensitive"),
    ],
)
def test_one_prompt(evidence, word, code):
    (verdict,), checkpoint = judge(evidence)
    assert (verdict.word, verdict.code) == (word, code)
    assert checkpoint.word == word


def test_one_of_many_above_the_controls_is_undecided_not_hidden_and_not_removed():
    verdicts, checkpoint = judge(attacked(0.8), *[attacked(0.25 + 0.001 * k) for k in range(9)])
    assert (verdicts[0].word, verdicts[0].code) == (NOT_TESTED, "undecided")
    assert {verdict.word for verdict in verdicts[1:]} == {REMOVED}
    assert checkpoint.word == NOT_TESTED


def test_most_of_many_above_the_controls_are_hidden():
    verdicts, checkpoint = judge(*[attacked(0.8)] * 10)
    assert {verdict.word for verdict in verdicts} == {HIDDEN} and checkpoint.word == HIDDEN
    strict, _ = judge(*[attacked(0.8)] * 10, correction="holm")
    assert {verdict.code for verdict in strict} == {"undecided"}, "Holm needs 199 controls for 10 prompts"


def test_prompts_that_are_separated_only_together_make_the_checkpoint_hidden():
    verdicts, checkpoint = judge(*[attacked(0.375 + 0.0001 * k) for k in range(8)])
    assert {verdict.word for verdict in verdicts} == {REMOVED}
    assert checkpoint.word == HIDDEN and checkpoint.numbers["pooled_p_value"] < 0.01


def test_a_prompt_with_a_mask_is_judged_by_controls_under_that_mask():
    high = tuple(control + 0.5 for control in CONTROLS)
    (verdict, masked), checkpoint = judge(attacked(0.8), replace(attacked(0.8, 0.95), controls=high))
    assert masked.word == REMOVED and masked.numbers["critical_score"] == pytest.approx(0.89)
    assert verdict.code == "undecided" and checkpoint.word == NOT_TESTED


def test_too_few_controls_never_say_removed():
    for controls in ([], CONTROLS[:18]):
        (verdict,), checkpoint = judge(attacked(0.1), controls=controls)
        assert (verdict.word, verdict.code) == (NOT_TESTED, "few-controls")
        assert checkpoint.word == NOT_TESTED


def test_prompts_that_source_does_not_replicate_have_no_say():
    verdicts, checkpoint = judge(attacked(0.3), Evidence(0.0, 0.0))
    assert [verdict.word for verdict in verdicts] == [REMOVED, NOT_TESTED]
    assert checkpoint.word == REMOVED and "1 more" in checkpoint.reason
    _, nothing = judge(Evidence(0.0, 0.0))
    assert nothing.word == NOT_TESTED


def test_the_worst_prompt_decides():
    _, checkpoint = judge(attacked(0.3), Evidence(1.0, 0.2), attacked(0.8))
    assert checkpoint.word == STILL


def test_simulated_audits_of_a_clean_model_and_of_a_hidden_memory():
    random = numpy.random.default_rng(0)
    alarms, removed, hidden = 0, [], []
    for _ in range(300):
        controls = list(random.normal(0.3, 0.05, 24))
        clean = [attacked(float(score)) for score in random.normal(0.3, 0.05, 14)]
        verdicts, checkpoint = judge(*clean, controls=controls)
        alarms += checkpoint.word == HIDDEN
        removed.append(sum(verdict.word == REMOVED for verdict in verdicts) / 14)
        full = [attacked(float(score)) for score in random.normal(0.65, 0.05, 14)]
        verdicts, _ = judge(*full, controls=controls)
        hidden.append(sum(verdict.word == HIDDEN for verdict in verdicts) / 14)
    assert alarms / 300 <= 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5
    assert numpy.mean(removed) >= 0.93 and numpy.mean(hidden) >= 0.97
