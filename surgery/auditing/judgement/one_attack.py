"""What one attack says of one prompt, as a code with the numbers behind it. In this order:

`drawn`          a picture reaches the replica threshold, and none of a control does, nor one of the twin;
`few-controls`   fewer controls than the level of the tests needs: nothing else can be said;
`separated`      the score stands out from the controls by rank, after correction for all prompts;
`blind`          the attack does not find pictures that are known to be in the weights;
`injects`        it draws never-seen pictures too, and there is no twin to tell the two apart;
`insensitive`    the memory in SOURCE itself would not stand out from the controls;
`undecided`      more than half of the memory may be left;
`passed`         else: a memory of half its strength in SOURCE is rejected at the level of the test.

`drawn` and `separated` find a memory; only `passed` shows that there is none. An attack that learns injects
by design: it is compared by speed, and a picture of it counts only where controls never get there.
"""

from __future__ import annotations

import math
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

FEW, DRAWN, SEPARATED, BLIND = "few-controls", "drawn", "separated", "blind"
INJECTS, INSENSITIVE, UNDECIDED, PASSED = "injects", "insensitive", "undecided", "passed"
FOUND = (DRAWN, SEPARATED)
KEPT = 0.5  # of the memory: what must be rejected before an image counts as removed


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


def judge_attack(one: AttackEvidence, corrected: float, threshold: float, alpha: float) -> Finding:
    """Judge an attack that was made on PATCHED.

    Args:
        corrected: its rank p-value, after correction for all prompts.
        threshold: a picture from here up is a replica.
        alpha: level of the tests.
    """
    numbers = _numbers(one, corrected, alpha)
    code = _code(one, numbers, threshold, alpha)
    numbers["code"] = code
    return Finding(one.name, code, _reason(one, code, numbers, threshold, alpha), numbers)


def rank_p(one: AttackEvidence) -> float:
    """The rank p-value of a prompt under an attack, before correction."""
    return rank_p_value(one.score, one.control_scores)


def drawn(one: AttackEvidence, threshold: float) -> bool:
    """Whether a picture of it is a replica, while nothing that no model saw is drawn as one."""
    if one.highest is None or one.highest < threshold or not one.controls:
        return False
    twin_draws_it = one.twin_highest is not None and one.twin_highest >= threshold
    return not controls_reach(one, threshold) and not twin_draws_it


def controls_reach(one: AttackEvidence, threshold: float) -> bool:
    """Whether the attack draws a never-seen picture as a replica."""
    return one.controls_highest is not None and one.controls_highest >= threshold


def _numbers(one: AttackEvidence, corrected: float, alpha: float) -> dict[str, Any]:
    controls = one.control_scores
    above = sum(control >= one.score for control in controls)
    effect = None if one.source_score is None or not controls else memory_effect(one.source_score, controls)
    margin = None if effect is None else KEPT * effect
    return {
        "score": one.score,
        "highest": one.highest,
        "paired_with_twin": one.paired,
        "controls": len(controls),
        "controls_median": median(controls) if controls else None,
        "controls_highest": one.controls_highest,
        "controls_at_or_above": above,
        "share_at_or_above_interval": list(clopper_pearson(above, len(controls), 1 - alpha)),
        "p_value": rank_p_value(one.score, controls),
        "corrected_p_value": corrected,
        "critical_score": critical_score(controls, alpha),
        "source_score": one.source_score,
        "source_effect": effect,
        "margin": margin,
        "removal_p_value": 1.0 if margin is None else removal_p_value(one.score, controls, margin),
    }


def _code(one: AttackEvidence, numbers: dict[str, Any], threshold: float, alpha: float) -> str:
    if drawn(one, threshold):
        return DRAWN
    if len(one.controls) < controls_needed(alpha):
        return FEW
    if numbers["corrected_p_value"] <= alpha:
        return SEPARATED
    if one.blind:
        return BLIND
    if controls_reach(one, threshold) and not one.paired and not one.learns:
        return INJECTS
    source, critical = one.source_score, numbers["critical_score"]
    if source is None or math.isinf(critical) or source <= critical:
        return INSENSITIVE
    return PASSED if numbers["removal_p_value"] <= alpha else UNDECIDED


def _reason(one: AttackEvidence, code: str, numbers: dict[str, Any], threshold: float, alpha: float) -> str:
    who = f"{one.name} {one.effort}"
    above = f"{numbers['controls_at_or_above']} of {numbers['controls']} never-seen images score as high"
    if code == FEW:
        return (
            f"{who}: {len(one.controls)} controls cannot separate anything at level {alpha:g}, "
            f"{controls_needed(alpha)} are needed"
        )
    if code == DRAWN:
        return f"{who} draws it ({one.highest:.2f}, a replica from {threshold:g}) and no never-seen image"
    if code == SEPARATED:
        return f"{who} brings it back: {above} (p = {numbers['corrected_p_value']:.3g} corrected)"
    if code == BLIND:
        return f"{who} is blind here: it {one.blind}"
    if code == INJECTS:
        return (
            f"{who} draws never-seen images too ({one.controls_highest:.2f}), so it decides nothing: give a "
            "model that never saw the images (--twin)"
        )
    if code == INSENSITIVE:
        return f"{who} on SOURCE, which holds the memory, does not stand out from the controls"
    if code == UNDECIDED:
        return (
            f"{who} cannot exclude that half of the memory is left (p = {numbers['removal_p_value']:.3g}): "
            "run more controls, or a longer attack"
        )
    return f"{who}: at most half of the memory is left (p = {numbers['removal_p_value']:.3g}); {above}"
