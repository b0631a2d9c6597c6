"""Everything that one audit found, before it is turned into `audit.json` and `audit.html`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.auditing.attack.stages import attack_score
from surgery.auditing.judgement.verdict import Evidence, Verdict
from surgery.auditing.measures.replication import Replication
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.stages import Unit
from surgery.auditing.subjects import Subject
from surgery.neurons import NeuronSet


@dataclass
class Findings:
    """The measured units of an audit, the verdicts drawn from them, and what was audited.

    Attributes:
        ids: of the subjects, hashed with a secret salt.
        replication, attacks: one per subject, None where it was not measured or not wanted.
        controls: the attack on each control image, on PATCHED; `mask_places` says for each subject which of
            the masks in a control unit is its own.
        control_kind: "given" or "generated".
        zeroed, otherwise_changed: what PATCHED's value layers have that SOURCE's have not.
        found_for: layer -> row -> prompts that localization found it for.
        public_ordinary: whether the ordinary prompts may be shown.
    """

    settings: AuditSettings
    similarity: Similarity
    subjects: Sequence[Subject]
    ids: Sequence[str]
    ordinary_prompts: Sequence[str]
    public_ordinary: bool
    replication: Sequence[Unit | None]
    ordinary: Sequence[Unit | None]
    controls: Sequence[Unit] = ()
    control_kind: str = "generated"
    mask_places: Sequence[int] = ()
    attacks: Sequence[dict[str, Unit] | None] = ()
    verdicts: Sequence[Verdict] = ()
    checkpoint: Verdict | None = None
    zeroed: NeuronSet = field(default_factory=NeuronSet)
    otherwise_changed: int = 0
    layer_rows: dict[str, int] = field(default_factory=dict)
    found_for: dict[str, dict[int, int]] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    corpus: dict[str, Any] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """Similarity at or above which a picture is a replica."""
        return self.similarity.threshold if self.settings.threshold is None else self.settings.threshold

    def replica(self, index: int, side: str) -> Replication | None:
        """The replication of a subject, `side` "before" or "after"."""
        unit = self.replication[index]
        return None if unit is None else Replication(tuple(unit[side]), self.threshold)

    def control_scores(self, index: int) -> tuple[float, ...]:
        """The control images' scores under a subject's mask."""
        place = self.mask_places[index] if self.mask_places else 0
        return tuple(attack_score(unit, place) for unit in self.controls)

    def evidence(self) -> list[Evidence]:
        """What the verdict is drawn from, one per subject."""
        found = []
        for index in range(len(self.subjects)):
            before, after = self.replica(index, "before"), self.replica(index, "after")
            pair = (self.attacks[index] if self.attacks else None) or {}
            found.append(
                Evidence(
                    before.share if before else None,
                    after.share if after else None,
                    attack_score(pair["source"]) if "source" in pair else None,
                    attack_score(pair["patched"]) if "patched" in pair else None,
                    self.control_scores(index),
                )
            )
        return found

    @property
    def complete(self) -> bool:
        """Whether everything asked for was measured: false where a budget ended the audit."""
        if any(unit is None for unit in (*self.replication, *self.ordinary)):
            return False
        if not self.settings.attack:
            return True
        evidence = self.evidence()
        wanted = [one for one in evidence if attack_wanted(one, self.settings.tolerance)]
        attacked = all(one.patched_score is not None and one.source_score is not None for one in wanted)
        return not wanted or (attacked and len(self.controls) == self.corpus["controls"])


def attack_wanted(evidence: Evidence, tolerance: float) -> bool:
    """Whether an attack would say more: SOURCE replicates the prompt and PATCHED no longer does."""
    if evidence.before is None or evidence.after is None:
        return False
    return evidence.before > tolerance >= evidence.after
