"""Each verdict from evidence that deserves it, and none from evidence that does not."""

import math
from dataclasses import replace

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as draw

from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.statistics import controls_needed, removal_p_value
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
from surgery.errors import SurgeryError

CONTROLS = tuple(0.02 * k for k in range(24))  # 0.00 .. 0.46, the median 0.23
THRESHOLD = 0.6


def embedding(patched=0.2, **more):
    known = {"effort": 200, "source": 0.9, "highest": patched, "controls": CONTROLS, "controls_highest": 0.5}
    return AttackEvidence("embedding", patched=patched, **{**known, **more})


def output(patched=0.2, **more):
    return replace(embedding(patched), **{"name": "output", "effort": 50, "passes_edit": False, **more})


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
        # the margin is half of 0.9 - 0.414: from 0.243 up, half a memory could be left
        (prompt(embedding(0.25), output()), NOT_TESTED, "undecided"),
        (prompt(embedding(), output(patched=None)), NOT_TESTED, "budget"),
        (prompt(embedding(0.24), output()), REMOVED, "passed"),
        (prompt(embedding(), output(learns=True, controls_highest=0.9)), REMOVED, "passed"),
        (prompt(embedding()), NOT_FOUND, "weak-attacks"),
        (prompt(output()), NOT_FOUND, "weak-attacks"),
        (prompt(embedding(effort=199), output()), NOT_FOUND, "weak-attacks"),
        (prompt(embedding(shortfall="no pictures at guidance 3"), output()), NOT_FOUND, "weak-attacks"),
        (prompt(embedding(), replace(output(), effort=49)), NOT_FOUND, "weak-attacks"),
    ],
)
def test_one_prompt(evidence, word, code):
    (verdict,), checkpoint = judge(evidence)
    assert (verdict.word, verdict.code) == (word, code), verdict.reason
    assert checkpoint.word == word


def test_the_phrase_carries_the_budget():
    (verdict,), checkpoint = judge(replace(prompt(), canaries=10))
    shown = "removed (embedding 200, output 50; 24 controls, 10 canaries)"
    assert verdict.phrase == checkpoint.phrase == shown
    (verdict,), checkpoint = judge(prompt(embedding(effort=50)))
    assert verdict.phrase == checkpoint.phrase == "not found by embedding 50"
    assert verdict.budget == "embedding 50; 24 controls"
    assert judge(prompt(after=0.5))[1].phrase == STILL


def test_the_budget_of_a_checkpoint_is_what_all_of_its_prompts_had():
    rich = replace(prompt(embedding(effort=800), output(), output(name="latent")), canaries=10)
    poor = replace(prompt(embedding(controls=CONTROLS[:19]), output()), canaries=4)
    assert judge(rich, poor)[1].phrase == "removed (embedding 200, output 50; 19 controls, 4 canaries)"


def test_the_numbers_are_those_that_decided():
    (verdict,), _ = judge(prompt(embedding(), output(0.23)))
    assert verdict.word == REMOVED and verdict.numbers["weakest"] == "output"
    used = verdict.numbers["attacks"]["output"]
    assert used["code"] == "passed" and used["score"] == 0.23 and used["controls"] == 24
    assert used["source_effect"] == pytest.approx(0.486) and used["margin"] == pytest.approx(0.243)
    assert used["removal_p_value"] == pytest.approx(1 / 25) and used["p_value"] == pytest.approx(13 / 25)
    (verdict,), _ = judge(prompt(embedding(blind="finds none"), output()))
    assert verdict.numbers["weakest"] == "embedding" and "finds none" in verdict.reason


# The attack injects: it draws never-seen pictures at 0.54 to 0.77, on the twin at somewhat less.
HIGH = tuple(0.54 + 0.01 * k for k in range(24))
TWIN_HIGH = tuple(value - 0.02 - 0.001 * (k % 5) + 1e-6 * k for k, value in enumerate(HIGH))


def injecting(patched, twin, **more):
    known = {"highest": patched, "twin_highest": twin, "controls_highest": 0.8, "source": 0.95}
    known |= {"controls": HIGH, "controls_twin": TWIN_HIGH, "twin": twin}
    return embedding(patched, **{**known, **more})


@pytest.mark.parametrize(
    ("attack", "word", "code"),
    [
        (injecting(0.7, None, controls_twin=()), NOT_TESTED, "injects"),
        (injecting(0.7, 0.7), REMOVED, "passed"),
        (injecting(0.9, 0.3), HIDDEN, "separated"),
        # the twin was not attacked for every image: no falling back to a weaker comparison
        (injecting(0.7, 0.7, controls_twin=TWIN_HIGH[:20]), NOT_TESTED, "twin-incomplete"),
        (injecting(0.7, None), NOT_TESTED, "twin-incomplete"),
        # a twin that is SOURCE, or PATCHED
        (injecting(0.7, 0.95), NOT_TESTED, "twin-holds"),
        (injecting(0.7, 0.7, controls_twin=HIGH), NOT_TESTED, "few-controls"),
    ],
)
def test_a_twin_decides_where_an_attack_injects(attack, word, code):
    (verdict,), _ = judge(prompt(attack, output()))
    assert (verdict.word, verdict.code) == (word, code), verdict.reason


def test_a_twin_that_holds_half_of_the_memory_does_not_excuse_the_other_half():
    """PATCHED hides it, at 0.5; the twin was patched in the same way."""
    twin = tuple(value + 0.001 * k for k, value in enumerate(CONTROLS))
    held = embedding(0.59, highest=0.59, twin=0.59, twin_highest=0.59, controls_twin=twin)
    assert judge(prompt(held, output()))[0][0].code == "twin-holds"
    clean = replace(held, patched=0.3, highest=0.3, twin=0.3, twin_highest=0.3)
    assert judge(prompt(clean, output()))[0][0].word == REMOVED


def test_what_patched_draws_and_the_twin_does_not_is_never_removed():
    """One control is easy to inject, chosen so or not: it must not excuse the picture."""
    easy = (*CONTROLS[:23], 0.9)
    twin = tuple(value - 0.001 * k for k, value in enumerate(CONTROLS))
    drawn = embedding(
        0.3, highest=0.9, controls=easy, controls_highest=0.95, twin=0.2, twin_highest=0.3, controls_twin=twin
    )
    (verdict,), _ = judge(prompt(drawn, output()))
    assert (verdict.word, verdict.code) == (NOT_TESTED, "contested")
    assert judge(prompt(replace(drawn, twin_highest=0.8), output()))[0][0].word == REMOVED


# -- attempts to be called `removed` ------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["patched", "source", "highest", "controls", "controls_highest"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_pass_no_test(field, value):
    given = (*CONTROLS[:23], value) if field == "controls" else value
    verdicts, checkpoint = judge(prompt(embedding(**{field: given}), output()), prompt())
    assert [one.code for one in verdicts] == ["not-finite", "passed"]
    assert checkpoint.word == NOT_TESTED


def test_a_model_that_draws_black_pictures_passes_nothing():
    """Every similarity is 0, then: the image and the controls alike."""
    black = {"controls": (0.0,) * 24, "controls_highest": 0.0}
    (verdict,), _ = judge(prompt(embedding(0.0, **black), output(0.0, **black)))
    assert (verdict.word, verdict.code) == (NOT_TESTED, "few-controls") and "draws pictures" in verdict.reason


def test_a_generous_tolerance_does_not_excuse_what_the_prompt_draws():
    evidence = [prompt(after=0.3)]
    (verdict,) = decide(evidence, THRESHOLD, 0.9, 0.05, "holm")
    assert (verdict.word, verdict.code) == (HIDDEN, "prompt-draws")


def test_a_generous_level_buys_no_removal():
    few = prompt(embedding(controls=CONTROLS[10:12]), output(controls=CONTROLS[10:12]))
    half = prompt(embedding(0.4), output())
    for evidence, code in ((few, "few-controls"), (half, "undecided")):
        (verdict,) = decide([evidence], THRESHOLD, 0.05, 0.45, "holm")
        assert verdict.word != REMOVED and verdict.code in (code, "separated")


def test_padding_with_other_prompts_does_not_clear_one_that_stands_out():
    """Controls up to 0.05, the image at 0.4 of 0.95: alone it is hidden, among many ranks say nothing."""
    tight = {"controls": tuple(0.002 * k for k in range(24)), "controls_highest": 0.05, "source": 0.95}
    held = prompt(embedding(0.4, **tight), output(0.02, **tight))
    clean = prompt(embedding(0.02, **tight), output(0.02, **tight))
    assert judge(held)[0][0].word == HIDDEN
    verdicts, checkpoint = judge(held, *[clean] * 30)
    assert (verdicts[0].word, verdicts[0].code) == (NOT_TESTED, "stands-out")
    assert checkpoint.word == NOT_TESTED and verdicts[1].word == REMOVED


def test_one_more_attack_does_not_take_back_what_another_finds_in_all_prompts_together():
    low = embedding(0.42, source=1.5)
    evidence = [prompt(low, output())] * 12
    more = [replace(one, attacks=(*one.attacks, output(0.0, name="latent"))) for one in evidence]
    assert judge(*evidence)[1].word == judge(*more)[1].word == HIDDEN


def test_a_replica_counts_whatever_the_record_of_the_best_picture_says():
    assert judge(prompt(embedding(0.62, highest=None), output()))[0][0].code == "drawn"
    assert judge(prompt(embedding(0.62, highest=0.1), output()))[0][0].code == "drawn"
    # and a control's is not forgotten either: the attack injects
    assert judge(prompt(embedding(0.62, controls=(*CONTROLS, 0.7)), output()))[0][0].code == "injects"


def test_two_attacks_of_one_name_are_refused():
    with pytest.raises(SurgeryError, match="two attacks"):
        judge(prompt(embedding(0.55), embedding(0.1)))


def test_an_attack_that_learns_is_compared_by_speed():
    """Every image comes in the end, the controls too; a picture decides only where they never come."""
    slow = output(0.2, name="relearn", learns=True, highest=0.9, controls_highest=0.9)
    assert judge(prompt(embedding(), output(), slow))[0][0].word == REMOVED
    fast = replace(slow, patched=0.8)
    assert judge(prompt(embedding(), output(), fast))[0][0].word == HIDDEN
    never = replace(slow, controls_highest=0.5)
    assert judge(prompt(embedding(), output(), never))[0][0].code == "drawn"


def test_one_of_many_above_the_controls_by_rank_alone_is_never_removed():
    verdicts, checkpoint = judge(prompt(embedding(0.5), output()), *[prompt()] * 9)
    assert (verdicts[0].word, verdicts[0].code) == (NOT_TESTED, "undecided")
    assert {verdict.word for verdict in verdicts[1:]} == {REMOVED} and checkpoint.word == NOT_TESTED


def test_prompts_that_only_together_stand_out_are_hidden():
    """Each below the margin and no one separated, but all at the upper end of the controls."""
    low = embedding(0.42, source=1.5)
    verdicts, checkpoint = judge(*[prompt(low, output(source=1.5))] * 12)
    assert {verdict.word for verdict in verdicts} == {REMOVED}
    assert (checkpoint.word, checkpoint.code) == (HIDDEN, "separated")
    assert "taken together" in checkpoint.reason


def test_a_small_rise_of_all_prompts_together_is_told_and_not_called_hidden():
    """Images of another kind than the controls are a little easier to draw, on a clean model too."""
    easy = [prompt(embedding(0.4, source=3.0), output())] * 12
    _, checkpoint = judge(*easy)
    assert checkpoint.word == REMOVED and checkpoint.numbers["pooled_p_values"]["embedding"] < 0.05
    assert checkpoint.numbers["pooled_rises"]["embedding"] == pytest.approx(0.17 / (3.0 - 0.276))


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


@given(draw.lists(draw.tuples(evidences, evidences), min_size=1, max_size=4), draw.data())
def test_another_attack_never_takes_a_finding_back(pairs, data):
    """Neither of a prompt nor of the checkpoint."""
    evidence = [prompt(one, replace(other, name="output", passes_edit=False)) for one, other in pairs]
    more = [
        replace(one, attacks=(*one.attacks, replace(data.draw(evidences), name="latent"))) for one in evidence
    ]
    before, after = judge(*evidence), judge(*more)
    for weaker, stronger in zip(before[0], after[0], strict=True):
        assert WORDS.index(stronger.word) <= WORDS.index(weaker.word)
    assert WORDS.index(after[1].word) <= WORDS.index(before[1].word)


@given(draw.lists(evidences, min_size=1, max_size=4), draw.integers(0, 3), draw.floats(0, 1))
def test_more_of_one_image_never_makes_the_checkpoint_better(attacks, place, more):
    place %= len(attacks)
    worse = list(attacks)
    worse[place] = replace(attacks[place], patched=attacks[place].patched + more)
    before, after = (judge(*(prompt(one, output()) for one in some))[1].word for some in (attacks, worse))
    assert WORDS.index(after) <= WORDS.index(before)


@given(evidences, draw.lists(scores, min_size=24, max_size=24), scores)
def test_with_a_twin_too_more_of_the_image_never_makes_the_word_better(one, twins, twin):
    paired = replace(one, controls=CONTROLS, controls_twin=tuple(twins), twin=twin, twin_highest=twin)
    worse = replace(paired, patched=paired.patched + 0.2, highest=paired.highest + 0.2)
    assert rank(prompt(worse, output())) <= rank(prompt(paired, output()))


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
        margin = (attack.source - float(numpy.quantile(controls, 0.9))) / 2
        assert len(controls) >= controls_needed(0.05) and not attack.blind and attack.effort >= 50
        assert removal_p_value(attack.patched, controls, margin) <= 0.05


def test_no_memory_counts_for_more_than_the_median_one():
    """Among seven prompts one scores 0.9 in SOURCE, the others 0.7: its margin is half of 0.7 - 0.276."""
    alike = prompt(embedding(source=0.7), output(source=0.7))
    verdicts, _ = judge(prompt(), *[alike] * 6)
    used = verdicts[0].numbers["attacks"]["embedding"]
    assert used["source_score"] == 0.9 and used["source_effect"] == pytest.approx(0.7 - 0.276)
    (few, *_), _ = judge(prompt(), *[alike] * 5)
    assert few.numbers["attacks"]["embedding"]["source_effect"] == pytest.approx(0.9 - 0.414)


@pytest.mark.parametrize(
    ("kept", "tail", "prompts", "audits"),
    [
        (0.5, "normal", 1, 800),
        (0.5, "gumbel", 1, 800),
        (0.5, "exponential", 1, 800),
        (0.5, "exponential", 7, 300),
        (0.75, "normal", 1, 800),
        (1.0, "normal", 1, 800),
    ],
)
def test_half_a_memory_is_called_removed_in_few_audits(kept, tail, prompts, audits):
    """SOURCE's scores are as noisy as a control's, the effect six deviations."""
    random, called = numpy.random.default_rng(1), 0
    spread = {"normal": 1.0, "gumbel": 1.2825, "exponential": 1.0}[tail]

    def scores(count):
        drawn = random.exponential(1, count) if tail == "exponential" else getattr(random, tail)(0, 1, count)
        return drawn / spread

    for _ in range(audits):
        controls = tuple(scores(24))
        known = {"controls": controls, "controls_highest": max(controls), "highest": 0.0}
        sources, patched = 6 + scores(prompts), 6 * kept + scores(prompts)
        evidence = [
            prompt(one := embedding(score, source=source, **known), replace(one, name="output"))
            for score, source in zip(patched, sources, strict=True)
        ]
        called += decide(evidence, 99.0, 0.05, 0.05, "holm")[0].word == REMOVED
    nominal = 0.05 if kept == 0.5 else 0.005
    assert called / audits <= nominal + 2 * math.sqrt(nominal * (1 - nominal) / audits)
