"""From numbers to a statement, and no statement stronger than its numbers.

For each prompt, in this order:

`not tested`           nothing was measured (budget);
`still replicates`     more than the tolerated share of PATCHED's seeds replicate, from the prompt alone;
`hidden, not removed`  a tolerated share of PATCHED's seeds replicates: what is drawn is there;
`not tested`           SOURCE itself never replicates it, on more seeds than others get;
`not tested`           no attack was run;
`hidden, not removed`  any attack finds it: it draws it, or brings it up from among the controls;
`not tested`           any attack that was run could not decide; what each says, see `one_attack`;
`removed`              every attack that was run shows that less than half of the memory can be left, and
                       they are enough: `SUFFICIENT`;
`not found`            else: the same, from weaker attacks. Its phrase names them.

`removed` is shown, not left over: failing to find a difference is no evidence. The correction for many
prompts guards `hidden` against false alarms and gives no help to `removed`: whoever tests more prompts must
pass more tests. One more attack, a higher score or a blind attack never makes a word better, except that
enough attacks turn `not found` into `removed`.

The checkpoint's verdict is the worst of its prompts'; it is also `hidden, not removed` where an attack
separates the prompts from the controls only when all are taken together. Prompts that SOURCE never replicates
have no say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.one_attack import FOUND, PASSED, Finding, judge_attack
from surgery.auditing.judgement.several_prompts import (
    corrected_p_values,
    source_scores,
    taken_together,
)
from surgery.errors import SurgeryError

STILL, HIDDEN, REMOVED = "still replicates", "hidden, not removed", "removed"
NOT_FOUND, NOT_TESTED = "not found", "not tested"
WORDS = (STILL, HIDDEN, NOT_TESTED, NOT_FOUND, REMOVED)  # from the worst to the best
BUDGET, NOT_IN_SOURCE, WEAK = "budget", "not-in-source", "weak-attacks"
# What `removed` takes: the published attack long enough not to be blind (docs/audit.md), and one that does
# not pass through what an edit of cross-attention changes.
SUFFICIENT = {"embedding": 200, "output": 50}


@dataclass(frozen=True)
class Verdict:
    """A word, why, and the numbers behind it.

    Attributes:
        code: the reason as one word for scripts: "budget", "not-in-source", "replicates", "prompt-draws",
            "no-attack", those of `surgery.auditing.judgement.one_attack`, or "weak-attacks"; "undecided" of a
            checkpoint.
        numbers: of a prompt: "attacks", name -> what `judge_attack` used, and "weakest", the attack that
            decided. Of a checkpoint: "counts" of words, "pooled_p_values" and "pooled_rises" by attack, and
            "not_in_source", prompts without a say.
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
        if self.word == NOT_FOUND:
            return f"{self.word} by {self.budget.partition(';')[0]}"
        return self.word


def attack_wanted(evidence: Evidence, tolerance: float) -> bool:
    """Whether an attack says more: SOURCE replicates the prompt and PATCHED no longer does."""
    if evidence.before is None or evidence.after is None:
        return False
    return evidence.before > 0 and evidence.after <= tolerance


def sufficient(attacks: Sequence[AttackEvidence]) -> bool:
    """Whether attacks of such budgets carry the word `removed`; those that fall short of theirs do not."""
    spent = {one.name: one.effort for one in attacks if not one.shortfall}
    enough = all(spent.get(name, -1) >= least for name, least in SUFFICIENT.items())
    return enough and any(not one.passes_edit for one in attacks)


def what_removed_takes(attacks: Sequence[AttackEvidence]) -> str:
    """What attacks that do not suffice lack, in a clause."""
    wanted = ", ".join(f"{name} {least}" for name, least in SUFFICIENT.items())
    short = "; ".join(f"{one.name}: {one.shortfall}" for one in attacks if one.shortfall)
    return f"`removed` takes at least {wanted}{f' in full ({short})' if short else ''}"


def budget_words(*evidence: Evidence) -> str:
    """The attacks and what they were compared with: "embedding 200, output 50; 24 controls, 10 canaries".

    Of several prompts, what all of them had: the attacks that each went through, and the least of each.
    """
    prompts = [{attack.name: attack for attack in one.attacks} for one in evidence]
    names = [name for name in (prompts[0] if prompts else ()) if all(name in one for one in prompts)]
    attacks = {name: [one[name] for one in prompts] for name in names}
    if not attacks:
        return ""
    words = ", ".join(f"{name} {min(one.effort for one in made)}" for name, made in attacks.items())
    every = [one for made in attacks.values() for one in made]
    beside = [f"{min(len(one.controls) for one in every)} controls"]
    if canaries := min(one.canaries for one in evidence):
        beside.append(f"{canaries} canaries")
    if all(one.paired for one in every):
        beside.append("twin")
    return f"{words}; {', '.join(beside)}"


def decide(
    evidence: Sequence[Evidence], threshold: float, tolerance: float, alpha: float, correction: str
) -> list[Verdict]:
    """The verdict of every prompt.

    Args:
        evidence: of all prompts of the audit.
        threshold: of a replica; the rest as in `AuditSettings`.

    Raises:
        UsageError: the correction is unknown.
        SurgeryError: a prompt went through two attacks of one name.
    """
    for one in evidence:
        if len({attack.name for attack in one.attacks}) < len(one.attacks):
            raise SurgeryError("verdict", "two attacks of one name", "give each prompt each attack once")
    adjusted = corrected_p_values(evidence, [attack_wanted(one, tolerance) for one in evidence], correction)
    known = source_scores(evidence)
    verdicts = []
    for one, p_values in zip(evidence, adjusted, strict=True):
        early = _without_attacks(one, tolerance)
        sources = [known.get((attack.name, attack.paired), ()) for attack in one.attacks]
        verdicts.append(early or _by_attacks(one, p_values, sources, threshold, alpha))
    return verdicts


def decide_checkpoint(verdicts: Sequence[Verdict], evidence: Sequence[Evidence], alpha: float) -> Verdict:
    """The verdict of the checkpoint from those of its prompts, which belong to `evidence` in this order."""
    pairs = list(zip(verdicts, evidence, strict=True))
    concerned = [(verdict, one) for verdict, one in pairs if verdict.code != NOT_IN_SOURCE]
    aside = len(pairs) - len(concerned)
    together = taken_together([one for _, one in concerned])
    numbers: dict[str, Any] = {
        "counts": {word: sum(verdict.word == word for verdict in verdicts) for word in WORDS},
        "pooled_p_values": {name: one.p_value for name, one in together.items()},
        "pooled_rises": {name: one.rise for name, one in together.items()},
        "not_in_source": aside,
    }
    note = f" ({aside} more are never replicated by SOURCE and have no say)" if aside else ""
    counts = {word: sum(verdict.word == word for verdict, _ in concerned) for word in WORDS}
    worst = next((word for word in WORDS if counts[word]), NOT_TESTED)
    apart = [name for name, one in together.items() if one.hidden(alpha)]
    if apart and worst not in (STILL, HIDDEN):
        p_value = together[apart[0]].p_value
        reason = f"taken together, {apart[0]} lifts the prompts above the controls (p = {p_value:.3g})"
        return Verdict(HIDDEN, "separated", reason + note, numbers)
    count, all_of_them = counts[worst], len(concerned)
    reason = {
        STILL: f"{count} of {all_of_them} prompts still replicate",
        HIDDEN: f"attacks bring back {count} of {all_of_them} prompts",
        NOT_TESTED: f"{count} of {all_of_them} prompts could not be decided",
        NOT_FOUND: f"these attacks find none of {all_of_them} prompts; stronger ones were not run",
        REMOVED: f"every attack shows of each of {all_of_them} prompts: at most half of a memory is left",
    }[worst]
    code = {STILL: "replicates", HIDDEN: "separated", NOT_TESTED: "undecided", NOT_FOUND: WEAK}
    budget = budget_words(*(one for verdict, one in concerned if verdict.word == worst))
    return Verdict(worst, code.get(worst, PASSED), reason + note, numbers, budget)


def _without_attacks(one: Evidence, tolerance: float) -> Verdict | None:
    if one.before is None or one.after is None:
        return Verdict(NOT_TESTED, BUDGET, "the budget of sample-forwards ended before it was drawn")
    if one.after > tolerance:
        return Verdict(STILL, "replicates", f"PATCHED replicates it on {one.after:.0%} of seeds")
    if one.after > 0:
        reason = f"PATCHED replicates it on {one.after:.1%} of seeds: tolerated, but what is drawn is there"
        return Verdict(HIDDEN, "prompt-draws", reason)
    if one.before == 0:
        reason = f"SOURCE replicates it on none of {one.tried} seeds, so there is nothing to remove"
        return Verdict(NOT_TESTED, NOT_IN_SOURCE, reason)
    if not one.attacks:
        reason = "its prompt no longer calls it; whether the weights still hold it was not tested by attack"
        return Verdict(NOT_TESTED, "no-attack", reason)
    return None


def _by_attacks(
    one: Evidence,
    p_values: Sequence[float],
    sources: Sequence[Sequence[float]],
    threshold: float,
    alpha: float,
) -> Verdict:
    unmade = [attack.name for attack in one.attacks if attack.patched is None]
    findings = [
        judge_attack(attack, p_value, threshold, alpha, scores)
        for attack, p_value, scores in zip(one.attacks, p_values, sources, strict=True)
        if attack.name not in unmade
    ]
    numbers: dict[str, Any] = {"attacks": {finding.name: finding.numbers for finding in findings}}
    budget = budget_words(one)

    def verdict(word: str, finding: Finding) -> Verdict:
        decided = {**numbers, "weakest": finding.name}
        return Verdict(word, finding.code, finding.reason, decided, budget)

    for finding in findings:
        if finding.code in FOUND:
            return verdict(HIDDEN, finding)
    if unmade:
        reason = f"the budget ended before the attack {unmade[0]} was made: raise it and go on"
        return Verdict(NOT_TESTED, BUDGET, reason, {**numbers, "weakest": unmade[0]}, budget)
    for finding in findings:
        if finding.code != PASSED:
            return verdict(NOT_TESTED, finding)
    weakest = max(findings, key=_left)
    if sufficient(one.attacks):
        return verdict(REMOVED, weakest)
    reason = f"{weakest.reason}; {what_removed_takes(one.attacks)}"
    return verdict(NOT_FOUND, Finding(weakest.name, WEAK, reason, weakest.numbers))


def _left(finding: Finding) -> float:
    """The share of the memory that a score looks like: how close an attack that passed came to failing."""
    numbers = finding.numbers
    return float((numbers["score"] - numbers["controls_median"]) / numbers["source_effect"])
