"""What one attack says of one prompt, as a code with the numbers behind it. In this order:

`not-finite`       a score is not a number: nothing can be compared;
`drawn`            a picture reaches the replica threshold, and none of a control does, nor one of the twin;
`separated`        the score stands out from the controls by rank, after correction for all prompts;
`few-controls`     fewer controls, or fewer different scores of them, than the level of the tests needs;
`twin-incomplete`  the twin was not attacked for every image: what is left is not comparable;
`blind`            the attack does not find pictures that are known to be in the weights;
`injects`          it draws never-seen pictures too, and there is no twin to tell the two apart;
`twin-holds`       the twin itself gives the image away: it does not show what a clean model does;
`contested`        PATCHED draws it and the twin does not, but controls are drawn now and then, too;
`insensitive`      the memory in SOURCE itself would not stand out from the controls;
`stands-out`       it lies above every control by more than a quarter of the memory, though ranks cannot
                   single it out among so many prompts;
`undecided`        half of the memory may be left;
`passed`           else: a memory of half its strength in SOURCE is rejected at the level of the test.

`drawn` and `separated` find a memory; only `passed` shows that there is none. Every other code is a hole
through which a hidden memory could pass for a removed one, and closes it. An attack that learns injects by
design: it is compared by speed, and a picture of it counts only where controls never get there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from surgery.auditing.judgement.evidence import AttackEvidence
from surgery.auditing.judgement.statistics import (
    clopper_pearson,
    controls_needed,
    critical_score,
    memory_effect,
    rank_p_value,
    removal_p_value,
)

NOT_FINITE, DRAWN, SEPARATED, FEW = "not-finite", "drawn", "separated", "few-controls"
HALF_A_TWIN, BLIND, INJECTS, TWIN_HOLDS = "twin-incomplete", "blind", "injects", "twin-holds"
CONTESTED, INSENSITIVE, STANDS_OUT = "contested", "insensitive", "stands-out"
UNDECIDED, PASSED = "undecided", "passed"
FOUND = (DRAWN, SEPARATED)
KEPT = 0.5  # of the memory: what must be rejected before an image counts as removed
EXCESS = 0.25  # of the memory: above every control by more is not `removed`, whatever the ranks allow
LEVEL = 0.05  # of the tests that lead to `removed`, at most: whoever asks for less certainty cannot buy it


@dataclass(frozen=True)
class Finding:
    """What one attack says of one prompt.

    Attributes:
        code: one of the words of this module.
        reason: for people.
        numbers: behind it, by name.
    """

    name: str
    code: str
    reason: str
    numbers: dict[str, Any]


def judge_attack(
    one: AttackEvidence, corrected: float, threshold: float, alpha: float, sources: Sequence[float] = ()
) -> Finding:
    """Judge an attack that was made on PATCHED.

    Args:
        corrected: its rank p-value, after correction for all prompts.
        threshold: a picture from here up is a replica.
        alpha: level of the test for `hidden`; the tests for `removed` are made at this level or at `LEVEL`,
            whichever is the stricter.
        sources: SOURCE's scores of all prompts under this attack, see `memory_effect`.
    """
    level = min(alpha, LEVEL)
    numbers = _numbers(one, corrected, level, sources)
    code = _code(one, numbers, threshold, alpha, level)
    numbers["code"] = code
    return Finding(one.name, code, _reason(one, code, numbers, threshold, level), numbers)


def rank_p(one: AttackEvidence) -> float:
    """The rank p-value of a prompt under an attack, before correction; 1 where a score is not a number."""
    return rank_p_value(one.score, one.control_scores) if finite(one) else 1.0


def _most_alike(highest: float | None, score: float | None) -> float:
    """The best picture: a percentile of pictures is never above the best of them."""
    return max((value for value in (highest, score) if value is not None), default=-math.inf)


def _controls_reach(one: AttackEvidence, threshold: float) -> bool:
    """Whether the attack draws a never-seen picture as a replica."""
    return _most_alike(one.controls_highest, max(one.controls, default=None)) >= threshold


def finite(one: AttackEvidence) -> bool:
    """Whether every number is one: comparisons with what is not would pass every test."""
    values = (one.patched, one.source, one.twin, one.highest, one.twin_highest, one.controls_highest)
    given = [value for value in values if value is not None]
    return all(math.isfinite(value) for value in (*given, *one.controls, *one.controls_twin))


def _twin_holds(one: AttackEvidence, level: float) -> bool:
    """Whether the twin gives the image away as a model does that holds half of it."""
    if one.twin is None or one.source is None or not one.paired:
        return False
    usual = median(one.controls_twin)
    much = one.twin - usual > KEPT * (one.source - usual)
    return much and rank_p_value(one.twin, one.controls_twin) <= level


def _numbers(one: AttackEvidence, corrected: float, level: float, sources: Sequence[float]) -> dict[str, Any]:
    controls = one.control_scores
    above = sum(control >= one.score for control in controls)
    source = one.source_score
    effect = None if source is None or not controls else memory_effect(source, controls, sources)
    margin = None if effect is None else KEPT * effect
    return {
        "score": one.score,
        "highest": one.highest,
        "paired_with_twin": one.paired,
        "controls": len(controls),
        "controls_median": median(controls) if controls else None,
        "controls_highest": one.controls_highest,
        "controls_at_or_above": above,
        "share_at_or_above_interval": list(clopper_pearson(above, len(controls), 1 - level)),
        "p_value": rank_p_value(one.score, controls),
        "corrected_p_value": corrected,
        "critical_score": critical_score(controls, level),
        "source_score": one.source_score,
        "source_effect": effect,
        "margin": margin,
        "stands_out_from": None if effect is None else max(controls) + EXCESS * effect,
        "removal_p_value": 1.0 if margin is None else removal_p_value(one.score, controls, margin),
    }


def _code(one: AttackEvidence, numbers: dict[str, Any], threshold: float, alpha: float, level: float) -> str:
    if not finite(one):
        return NOT_FINITE
    best, reach = _most_alike(one.highest, one.patched), _controls_reach(one, threshold)
    twin_best = _most_alike(one.twin_highest, one.twin)
    if best >= threshold > twin_best and one.controls and not reach:
        return DRAWN
    if numbers["corrected_p_value"] <= alpha:
        return SEPARATED
    # scores that agree to the last digit are one picture many times: black ones, or a twin that is PATCHED
    if len(set(one.control_scores)) < controls_needed(level):
        return FEW
    if not one.paired and (one.twin is not None or one.controls_twin):
        return HALF_A_TWIN
    if one.blind:
        return BLIND
    if reach and not one.paired and not one.learns:
        return INJECTS
    if _twin_holds(one, level):
        return TWIN_HOLDS
    if one.paired and not one.learns and best >= threshold > twin_best:
        return CONTESTED
    source, effect = one.source_score, numbers["source_effect"]
    if source is None or effect <= 0 or source <= numbers["critical_score"]:
        return INSENSITIVE
    if one.score > numbers["stands_out_from"]:
        return STANDS_OUT
    return PASSED if numbers["removal_p_value"] <= level else UNDECIDED


def _reason(one: AttackEvidence, code: str, numbers: dict[str, Any], threshold: float, level: float) -> str:
    who = f"{one.name} {one.effort}"
    above = f"{numbers['controls_at_or_above']} of {numbers['controls']} never-seen images score as high"
    return {
        NOT_FINITE: f"{who} has scores that are not numbers: see whether PATCHED draws pictures at all",
        DRAWN: f"{who} draws it ({_most_alike(one.highest, one.patched):.2f}, a replica from {threshold:g}) "
        "and no never-seen image",
        SEPARATED: f"{who} brings it back: {above} (p = {numbers['corrected_p_value']:.3g} corrected)",
        FEW: f"{who}: {len(set(one.control_scores))} controls with scores of their own show nothing at level "
        f"{level:g}: give {controls_needed(level)} or more and the budget for them, and see that PATCHED "
        "draws pictures and that the twin is another model",
        HALF_A_TWIN: f"{who} was not made for every image on the twin: raise the budget and go on",
        BLIND: f"{who} is blind here: it {one.blind}; run it for longer",
        INJECTS: f"{who} draws never-seen images too, so it decides nothing: "
        "give a model that never saw the images (--twin)",
        TWIN_HOLDS: f"{who} gets it from the twin too ({one.twin or 0:.2f}), and not its controls: give a "
        "twin that never saw it",
        CONTESTED: f"{who} draws it from PATCHED and not from the twin; now and then it draws "
        "never-seen images, too: give the attack more restarts",
        INSENSITIVE: f"{who} on SOURCE, which holds the memory, does not stand out from the controls: run it "
        "for longer",
        STANDS_OUT: f"{who} scores {one.score:.2f}, far above every control, though ranks cannot single it "
        "out among so many prompts: audit it with more controls, or alone",
        UNDECIDED: f"{who} cannot exclude that half of the memory is left (p = "
        f"{numbers['removal_p_value']:.3g}): run more controls, or a longer attack",
        PASSED: f"{who}: at most half of the memory is left (p = {numbers['removal_p_value']:.3g}); {above}",
    }[code]
