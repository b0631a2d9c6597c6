"""From numbers to a statement, and no statement stronger than its numbers.

For each prompt, in this order:

`not tested`           nothing was measured (budget), or SOURCE itself never replicates it;
`still replicates`     more than the tolerated share of PATCHED's seeds replicate, from the prompt alone;
`not tested`           no attack was run;
`hidden, not removed`  any attack finds it: it draws it, or brings it up from among the controls;
`not tested`           any attack that was run could not decide; what each says, see `one_attack`;
`removed`              every attack that was run shows that less than half of the memory can be left, and
                       they are enough: `SUFFICIENT`;
`not found`            else: the same, from weaker attacks. Its phrase names them.

`removed` is shown, not left over: failing to find a difference is no evidence. The correction for many
prompts guards `hidden` against false alarms and gives no help to `removed`: whoever tests more prompts must
pass more tests.

The checkpoint's verdict is the worst of its prompts'; it is also `hidden, not removed` where an attack
separates the prompts from the controls only when all are taken together. Prompts that SOURCE never replicates
have no say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.auditing.judgement.corrections import corrected
from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.one_attack import FOUND, PASSED, Finding, judge_attack, rank_p
from surgery.auditing.judgement.statistics import controls_needed, pooled_p_value

STILL, HIDDEN, REMOVED = "still replicates", "hidden, not removed", "removed"
NOT_FOUND, NOT_TESTED = "not found", "not tested"
WORDS = (STILL, HIDDEN, NOT_TESTED, NOT_FOUND, REMOVED)  # from the worst to the best
# What `removed` takes: the published attack long enough not to be blind (docs/audit.md), and one that does
# not pass through what an edit of cross-attention changes.
SUFFICIENT = {"embedding": 200, "output": 50}


@dataclass(frozen=True)
class Verdict:
    """A word, why, and the numbers behind it.

    Attributes:
        code: the reason as one word for scripts: "budget", "not-in-source", "replicates", "no-attack", those
            of `surgery.auditing.judgement.one_attack`, or "weak-attacks".
        budget: what the word was reached with: "embedding 200, output 50; 24 controls, 10 canaries".
    """

    word: str
    code: str
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)
    budget: str = ""

    @property
    def phrase(self) -> str:
        """The word with its budget, where it says nothing without."""
        if self.word == REMOVED:
            return f"{self.word} ({self.budget})"
        return f"{self.word} by {self.budget}" if self.word == NOT_FOUND else self.word


def attack_wanted(evidence: Evidence, tolerance: float) -> bool:
    """Whether an attack says more: SOURCE replicates the prompt and PATCHED no longer does."""
    if evidence.before is None or evidence.after is None:
        return False
    return evidence.before > 0 and evidence.after <= tolerance


def sufficient(attacks: Sequence[AttackEvidence]) -> bool:
    """Whether attacks of such budgets carry the word `removed`."""
    spent = {one.name: one.effort for one in attacks}
    return all(spent.get(name, -1) >= least for name, least in SUFFICIENT.items())


def budget_words(evidence: Evidence) -> str:
    """The attacks and what they were compared with: "embedding 200, output 50; 24 controls, twin"."""
    if not evidence.attacks:
        return ""
    words = ", ".join(f"{one.name} {one.effort}" for one in evidence.attacks)
    fewest = min(len(one.controls) for one in evidence.attacks)
    beside = [f"{fewest} controls"]
    if evidence.canaries:
        beside.append(f"{evidence.canaries} canaries")
    if all(one.paired for one in evidence.attacks):
        beside.append("twin")
    return f"{words}; {', '.join(beside)}"


def decide(
    evidence: Sequence[Evidence], threshold: float, tolerance: float, alpha: float, correction: str
) -> list[Verdict]:
    """The verdict of every prompt; `threshold` of a replica, the rest as in `AuditSettings`."""
    adjusted = _corrected_p_values(evidence, tolerance, correction)
    verdicts = []
    for place, one in enumerate(evidence):
        early = _without_attacks(one, tolerance)
        verdicts.append(early or _by_attacks(one, adjusted[place], threshold, alpha))
    return verdicts


def decide_checkpoint(verdicts: Sequence[Verdict], evidence: Sequence[Evidence], alpha: float) -> Verdict:
    """The verdict of the checkpoint from those of its prompts."""
    counts = {word: sum(verdict.word == word for verdict in verdicts) for word in WORDS}
    aside = sum(verdict.code == "not-in-source" for verdict in verdicts)
    concerned = len(verdicts) - aside
    pooled = _pooled(evidence)
    numbers: dict[str, Any] = {"counts": counts, "pooled_p_values": pooled, "not_in_source": aside}
    note = f" ({aside} more are never replicated by SOURCE and have no say)" if aside else ""
    counts = {**counts, NOT_TESTED: counts[NOT_TESTED] - aside}
    worst = next((word for word in WORDS if counts[word]), NOT_TESTED)
    apart = [name for name in pooled if pooled[name] <= alpha and _enough_controls(evidence, name, alpha)]
    if apart and worst not in (STILL, HIDDEN):
        reason = (
            f"taken together, {apart[0]} lifts the prompts above the controls (p = {pooled[apart[0]]:.3g})"
        )
        return Verdict(HIDDEN, "separated", reason + note, numbers)
    reason = {
        STILL: f"{counts[STILL]} of {concerned} prompts still replicate",
        HIDDEN: f"attacks bring back {counts[HIDDEN]} of {concerned} prompts",
        NOT_TESTED: f"{counts[NOT_TESTED]} of {concerned} prompts could not be decided",
        NOT_FOUND: f"these attacks find none of {concerned} prompts; stronger ones were not run",
        REMOVED: f"every attack shows for each of {concerned} prompts that at most half of a memory is left",
    }[worst]
    code = {STILL: "replicates", HIDDEN: "separated", NOT_TESTED: "undecided"}.get(worst, PASSED)
    budget = next((verdict.budget for verdict in verdicts if verdict.word == worst), "")
    return Verdict(worst, code, reason + note, numbers, budget)


def _without_attacks(one: Evidence, tolerance: float) -> Verdict | None:
    if one.before is None or one.after is None:
        return Verdict(NOT_TESTED, "budget", "the budget of sample-forwards ended before it was drawn")
    if one.after > tolerance:
        return Verdict(STILL, "replicates", f"PATCHED replicates it on {one.after:.0%} of seeds")
    if one.before == 0:
        reason = f"SOURCE replicates it on none of {one.tried} seeds, so there is nothing to remove"
        return Verdict(NOT_TESTED, "not-in-source", reason)
    if not one.attacks:
        reason = "its prompt no longer calls it; whether the weights still hold it was not tested by attack"
        return Verdict(NOT_TESTED, "no-attack", reason)
    return None


def _by_attacks(one: Evidence, adjusted: dict[str, float], threshold: float, alpha: float) -> Verdict:
    budget = budget_words(one)
    unmade = [attack.name for attack in one.attacks if attack.patched is None or not attack.controls]
    findings = [
        judge_attack(attack, adjusted[attack.name], threshold, alpha)
        for attack in one.attacks
        if attack.name not in unmade
    ]
    numbers: dict[str, Any] = {"attacks": {finding.name: finding.numbers for finding in findings}}

    def verdict(word: str, code: str, reason: str) -> Verdict:
        return Verdict(word, code, reason, numbers, budget)

    for finding in findings:
        if finding.code in FOUND:
            return verdict(HIDDEN, finding.code, finding.reason)
    if unmade:
        return verdict(NOT_TESTED, "budget", f"the budget ended before the attack {unmade[0]} was made")
    for finding in findings:
        if finding.code != PASSED:
            return verdict(NOT_TESTED, finding.code, finding.reason)
    reason = _weakest(findings).reason
    if not sufficient(one.attacks):
        wanted = ", ".join(f"{name} {least}" for name, least in SUFFICIENT.items())
        return verdict(NOT_FOUND, "weak-attacks", f"{reason}; `removed` takes at least {wanted}")
    return verdict(REMOVED, PASSED, reason)


def _weakest(findings: Sequence[Finding]) -> Finding:
    """The one whose score lies the least below what would have failed."""
    return max(findings, key=lambda one: (one.numbers["removal_p_value"], one.numbers["score"]))


def _corrected_p_values(
    evidence: Sequence[Evidence], tolerance: float, correction: str
) -> list[dict[str, float]]:
    """For each prompt: attack -> its rank p-value, corrected for all prompts under the same attack."""
    found: list[dict[str, float]] = [{} for _ in evidence]
    by_attack: dict[str, list[tuple[int, float]]] = {}
    for place, one in enumerate(evidence):
        for attack in one.attacks if attack_wanted(one, tolerance) else ():
            if attack.patched is not None:
                by_attack.setdefault(attack.name, []).append((place, rank_p(attack)))
    for name, pairs in by_attack.items():
        values = corrected([p_value for _, p_value in pairs], correction)
        for (place, _), value in zip(pairs, values, strict=True):
            found[place][name] = value
    return found


def _pooled(evidence: Sequence[Evidence]) -> dict[str, float]:
    """Attack -> the p-value of all its prompts taken together.

    Prompts compared under one mask share their controls and are tested together; the smallest p-value is
    taken times the number of masks and of attacks (Bonferroni).
    """
    groups: dict[str, dict[tuple[float, ...], list[float]]] = {}
    for one in evidence:
        for attack in one.attacks:
            if attack.patched is not None and attack.controls:
                group = groups.setdefault(attack.name, {})
                # paired scores are each less their own twin's: they share the differences of the controls
                group.setdefault(attack.control_scores, []).append(attack.score)
    found = {}
    for name, of_masks in groups.items():
        p_values = [pooled_p_value(scores, controls) for controls, scores in of_masks.items()]
        found[name] = min(1.0, len(groups) * len(p_values) * min(p_values))
    return found


def _enough_controls(evidence: Sequence[Evidence], name: str, alpha: float) -> bool:
    """Whether an attack has the controls that the level of the test needs."""
    counts = [len(attack.controls) for one in evidence for attack in one.attacks if attack.name == name]
    return min(counts) >= controls_needed(alpha)
