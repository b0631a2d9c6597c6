"""What many prompts do to the numbers of one attack: p-values corrected for all, and all taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from surgery.auditing.judgement.corrections import corrected
from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.one_attack import finite, rank_p
from surgery.auditing.judgement.statistics import controls_needed, memory_effect, pooled_p_value

# Of the memories' mean effect in SOURCE: prompts that lie above the controls by less, all taken together, are
# not `hidden`. Audited images are never quite of the controls' kind (layouts that are easier to draw), and
# with a hundred prompts the test sees that on models that never met them.
RELEVANT_RISE = 0.1


@dataclass(frozen=True)
class Together:
    """All prompts of an audit under one attack.

    Attributes:
        p_value: that their scores do not lie above the controls'.
        rise: by which share of SOURCE's mean effect they do; None where SOURCE was not attacked.
        controls: the fewest that a prompt was compared with.
    """

    p_value: float
    rise: float | None
    controls: int

    def hidden(self, alpha: float) -> bool:
        """Whether they stand out from the controls, by more than images of another kind do."""
        if self.p_value > alpha or self.controls < controls_needed(alpha):
            return False
        return self.rise is None or self.rise >= RELEVANT_RISE


def corrected_p_values(
    evidence: Sequence[Evidence], wanted: Sequence[bool], correction: str
) -> list[list[float]]:
    """For each prompt and each of its attacks: the rank p-value, corrected for all prompts under that attack.

    Args:
        wanted: which prompts count; 1.0 for the attacks of the others, and for those that were not made.

    Raises:
        UsageError: the correction is unknown.
    """
    found = [[1.0] * len(one.attacks) for one in evidence]
    by_attack: dict[str, list[tuple[int, int, float]]] = {}
    for place, one in enumerate(evidence):
        for index, attack in enumerate(one.attacks if wanted[place] else ()):
            if attack.patched is not None:
                by_attack.setdefault(attack.name, []).append((place, index, rank_p(attack)))
    for entries in by_attack.values():
        values = corrected([p_value for _, _, p_value in entries], correction)
        for (place, index, _), value in zip(entries, values, strict=True):
            found[place][index] = value
    return found


def source_scores(evidence: Sequence[Evidence]) -> dict[tuple[str, bool], list[float]]:
    """SOURCE's scores of all prompts, by attack and by whether they are less the twin's: another scale."""
    found: dict[tuple[str, bool], list[float]] = {}
    for one in evidence:
        for attack in one.attacks:
            if attack.source_score is not None and finite(attack):
                found.setdefault((attack.name, attack.paired), []).append(attack.source_score)
    return found


def taken_together(evidence: Sequence[Evidence]) -> dict[str, Together]:
    """Attack -> all prompts under it.

    Prompts compared under one mask share their controls and are tested together; the smallest p-value is
    taken times the number of masks (Bonferroni). There is no correction over attacks: else one more attack
    could take back what another one found.
    """
    by_attack: dict[str, list[AttackEvidence]] = {}
    for one in evidence:
        for attack in one.attacks:
            if attack.patched is not None and attack.controls and finite(attack):
                by_attack.setdefault(attack.name, []).append(attack)
    return {name: _together(attacks) for name, attacks in by_attack.items()}


def _together(attacks: Sequence[AttackEvidence]) -> Together:
    # paired scores are each less their own twin's: they share the differences of the controls
    masks: dict[tuple[float, ...], list[float]] = {}
    for attack in attacks:
        masks.setdefault(attack.control_scores, []).append(attack.score)
    p_values = [pooled_p_value(scores, controls) for controls, scores in masks.items()]
    sources = [attack.source_score for attack in attacks if attack.source_score is not None]
    rises = [attack.score - median(attack.control_scores) for attack in attacks]
    effects = [
        memory_effect(attack.source_score, attack.control_scores, sources)
        for attack in attacks
        if attack.source_score is not None
    ]
    known = len(effects) == len(attacks) and mean(effects) > 0
    return Together(
        p_value=min(1.0, len(p_values) * min(p_values)),
        rise=mean(rises) / mean(effects) if known else None,
        controls=min(len(attack.controls) for attack in attacks),
    )
