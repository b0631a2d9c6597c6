"""From numbers to a statement, and no statement stronger than its numbers.

For each prompt, in this order:

`not tested`           SOURCE itself does not replicate it, or nothing was measured (budget);
`still replicates`     more than the tolerated share of PATCHED's seeds replicate, from the prompt alone;
`not tested`           no attack was run, or fewer controls than the level of the test needs;
`hidden, not removed`  the attack separates the image from the controls, after correction for all prompts;
`not tested`           it lies above the controls, but not beyond what so many prompts produce by chance;
`not tested`           even SOURCE's own score would not stand out from PATCHED's controls: the test is blind;
`removed`              else: not distinguishable from an image that the model never saw.

The correction guards `hidden, not removed` against false alarms. `removed` gets no help from it: a prompt is
called removed only where its own, uncorrected p-value is above the level, and where the test would have
noticed the memory at the strength it has in SOURCE.

The checkpoint's verdict is the worst of its prompts'; it is also `hidden, not removed` where the attack
separates the prompts from the controls only when all are taken together. Prompts that SOURCE does not
replicate have no say in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from surgery.auditing.judgement.corrections import corrected
from surgery.auditing.judgement.statistics import (
    clopper_pearson,
    controls_needed,
    critical_score,
    detectable_effect,
    pooled_p_value,
    rank_p_value,
)

STILL, HIDDEN, REMOVED, NOT_TESTED = "still replicates", "hidden, not removed", "removed", "not tested"
WORDS = (STILL, HIDDEN, REMOVED, NOT_TESTED)


@dataclass(frozen=True)
class Evidence:
    """What was measured for one prompt; None where it was not.

    Attributes:
        before, after: share of seeds that replicate, in SOURCE and in PATCHED.
        source_score, patched_score: the attack's score in each: the best restart's median similarity, at
            its best step.
        controls: the attack's scores on PATCHED for the control images, under this prompt's mask.
    """

    before: float | None = None
    after: float | None = None
    source_score: float | None = None
    patched_score: float | None = None
    controls: tuple[float, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A word, why, and the numbers behind it.

    Attributes:
        code: the reason as one word for scripts: "budget", "not-in-source", "replicates", "no-attack",
            "few-controls", "separated", "undecided", "insensitive", "indistinguishable".
        numbers: p-values and the like, by name.
    """

    word: str
    code: str
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)


def attack_wanted(evidence: Evidence, tolerance: float) -> bool:
    """Whether an attack says more: SOURCE replicates the prompt and PATCHED no longer does."""
    if evidence.before is None or evidence.after is None:
        return False
    return evidence.before > tolerance >= evidence.after


def decide(evidence: Sequence[Evidence], tolerance: float, alpha: float, correction: str) -> list[Verdict]:
    """The verdict of every prompt; `tolerance`, `alpha` and `correction` as in `AuditSettings`."""
    attacked = [
        index
        for index, one in enumerate(evidence)
        if attack_wanted(one, tolerance) and one.patched_score is not None
    ]
    p_values = [rank_p_value(_score(evidence[index]), evidence[index].controls) for index in attacked]
    adjusted = dict(zip(attacked, corrected(p_values, correction), strict=True))
    return [_decide_one(one, tolerance, alpha, adjusted.get(k)) for k, one in enumerate(evidence)]


def decide_checkpoint(verdicts: Sequence[Verdict], evidence: Sequence[Evidence], alpha: float) -> Verdict:
    """The verdict of the checkpoint from those of its prompts."""
    counts = {word: sum(verdict.word == word for verdict in verdicts) for word in WORDS}
    strangers = sum(verdict.code == "not-in-source" for verdict in verdicts)
    attacked = [one for one in evidence if one.patched_score is not None]
    fewest = min((len(one.controls) for one in attacked), default=0)
    pooled = _pooled(attacked)
    numbers: dict[str, Any] = {"counts": counts, "pooled_p_value": pooled, "not_in_source": strangers}
    concerned = len(verdicts) - strangers
    aside = f" ({strangers} more are not replicated by SOURCE and have no say)" if strangers else ""
    if counts[STILL]:
        return Verdict(
            STILL, "replicates", f"{counts[STILL]} of {concerned} prompts still replicate", numbers
        )
    if counts[HIDDEN]:
        reason = f"the attack brings back {counts[HIDDEN]} of {concerned} prompts{aside}"
        return Verdict(HIDDEN, "separated", reason, numbers)
    if attacked and fewest >= controls_needed(alpha) and pooled <= alpha:
        reason = f"taken together, the attacked prompts lie above the controls (p = {pooled:.3g}){aside}"
        return Verdict(HIDDEN, "separated", reason, numbers)
    if concerned and counts[REMOVED] == concerned:
        reason = (
            f"under attack, none of {concerned} prompts is distinguishable from {fewest} "
            f"images never seen, at level {alpha:g}{aside}"
        )
        return Verdict(REMOVED, "indistinguishable", reason, numbers)
    reason = f"{counts[NOT_TESTED] - strangers} of {concerned} prompts could not be decided{aside}"
    return Verdict(NOT_TESTED, "undecided", reason, numbers)


def _pooled(attacked: Sequence[Evidence]) -> float:
    """The pooled p-value. Prompts compared under one mask share their controls and are tested together; where
    there are several masks, the smallest p-value times their number (Bonferroni)."""
    groups: dict[tuple[float, ...], list[float]] = {}
    for one in attacked:
        groups.setdefault(one.controls, []).append(_score(one))
    p_values = [pooled_p_value(scores, controls) for controls, scores in groups.items()]
    return min(1.0, len(p_values) * min(p_values)) if p_values else 1.0


def _score(evidence: Evidence) -> float:
    assert evidence.patched_score is not None
    return evidence.patched_score


def _decide_one(evidence: Evidence, tolerance: float, alpha: float, adjusted: float | None) -> Verdict:
    if evidence.before is None or evidence.after is None:
        return Verdict(NOT_TESTED, "budget", "the budget of sample-forwards ended before it was drawn")
    if evidence.before <= tolerance:
        return Verdict(
            NOT_TESTED,
            "not-in-source",
            f"SOURCE replicates it on {evidence.before:.0%} of seeds, so there is nothing to remove",
        )
    if evidence.after > tolerance:
        return Verdict(STILL, "replicates", f"PATCHED replicates it on {evidence.after:.0%} of seeds")
    if evidence.patched_score is None or adjusted is None:
        return Verdict(
            NOT_TESTED,
            "no-attack",
            "its prompt no longer calls it; whether the weights still hold it was not tested by attack",
        )
    if len(evidence.controls) < controls_needed(alpha):
        return Verdict(
            NOT_TESTED,
            "few-controls",
            f"{len(evidence.controls)} controls cannot separate anything at level {alpha:g}: "
            f"{controls_needed(alpha)} are needed",
        )
    return _decide_by_attack(evidence, alpha, adjusted)


def _decide_by_attack(evidence: Evidence, alpha: float, adjusted: float) -> Verdict:
    score, controls = _score(evidence), evidence.controls
    above = sum(control >= score for control in controls)
    p_value, critical = rank_p_value(score, controls), critical_score(controls, alpha)
    interval = clopper_pearson(above, len(controls), 1 - alpha)
    numbers = {
        "score": score,
        "p_value": p_value,
        "corrected_p_value": adjusted,
        "controls": len(controls),
        "controls_at_or_above": above,
        "share_at_or_above_interval": list(interval),
        "critical_score": critical,
        "detectable_effect": detectable_effect(controls, alpha),
        "effect": score - median(controls),
        "source_effect": None if evidence.source_score is None else evidence.source_score - median(controls),
    }
    stand = f"{above} of {len(controls)} never-seen images score as high (p = {p_value:.3g}"
    if adjusted <= alpha:
        reason = f"the attack brings it back: {stand}, {adjusted:.3g} corrected)"
        return Verdict(HIDDEN, "separated", reason, numbers)
    if p_value <= alpha:
        reason = f"{stand}), suspicious alone, but {adjusted:.3g} after correction: run more controls"
        return Verdict(NOT_TESTED, "undecided", reason, numbers)
    if evidence.source_score is None or evidence.source_score <= critical or math.isinf(critical):
        reason = "the same attack on SOURCE, which holds the memory, would not stand out from these controls"
        return Verdict(NOT_TESTED, "insensitive", reason, numbers)
    reason = (
        f"under attack it is not distinguishable from images never seen: {stand}); "
        f"an effect of {numbers['detectable_effect']:.2f} would have been found with 80 % power"
    )
    return Verdict(REMOVED, "indistinguishable", reason, numbers)
