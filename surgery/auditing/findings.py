"""Everything that one audit found, before it is turned into `audit.json` and `audit.html`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.auditing.judgement.verdict import Evidence, Verdict, attack_wanted
from surgery.auditing.measures.replication import Replication
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.subjects import Subject
from surgery.auditing.units import AttackPair, AttackUnit, Cost, OrdinaryUnit, ReplicationUnit, Unit
from surgery.neurons import NeuronSet


@dataclass(frozen=True)
class AttackFindings:
    """What one attack found.

    Attributes:
        name: of the attack, "" where none was made.
        controls: on each control image, on PATCHED, under every mask in use.
        pairs: on each subject's image, on both models; None where it was not wanted or not made.
    """

    name: str = ""
    controls: Sequence[AttackUnit] = ()
    pairs: Sequence[AttackPair | None] = ()


@dataclass
class Findings:
    """The measured units of an audit, the verdicts drawn from them, and what was audited.

    Attributes:
        ids: of the subjects, hashed with a secret salt.
        public_ordinary: whether the ordinary prompts may be shown.
        replication: one per subject; None where it was not measured.
        ordinary: one per ordinary prompt; None where it was not measured.
        attack: empty where none was made.
        control_kind: "given" or "generated".
        mask_places: for each subject, which of the masks in a control unit is its own.
        verdicts: one per subject; `checkpoint` is that of all.
        zeroed: rows of value layers that are zero in PATCHED only; `otherwise_changed` counts other changes.
        layer_rows: layer -> how many rows it has.
        found_for: layer -> row -> prompts that localization found it for.
    """

    settings: AuditSettings
    similarity: Similarity
    subjects: Sequence[Subject]
    ids: Sequence[str]
    ordinary_prompts: Sequence[str]
    public_ordinary: bool
    replication: Sequence[ReplicationUnit | None] = ()
    ordinary: Sequence[OrdinaryUnit | None] = ()
    attack: AttackFindings = AttackFindings()
    control_kind: str = "generated"
    mask_places: Sequence[int] = ()
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
        return self.similarity.threshold

    def replica(self, index: int, side: str) -> Replication | None:
        """The replication of a subject, `side` "before" or "after"."""
        unit = self.replication[index]
        if unit is None:
            return None
        return Replication({"before": unit.before, "after": unit.after}[side].to_target, self.threshold)

    def pair(self, index: int) -> AttackPair:
        """The attack on a subject's image, on both models as far as it was made."""
        return (self.attack.pairs[index] if self.attack.pairs else None) or AttackPair()

    def mask_place(self, index: int) -> int:
        """Which of the masks in a control unit is this subject's."""
        return self.mask_places[index] if self.mask_places else 0

    def evidence(self) -> list[Evidence]:
        """What the verdict is drawn from, one per subject."""
        found = []
        for index in range(len(self.subjects)):
            before, after = self.replica(index, "before"), self.replica(index, "after")
            pair, place = self.pair(index), self.mask_place(index)
            found.append(
                Evidence(
                    before=before.share if before else None,
                    after=after.share if after else None,
                    source_score=pair.source.score() if pair.source else None,
                    patched_score=pair.patched.score() if pair.patched else None,
                    controls=tuple(unit.score(place) for unit in self.attack.controls),
                )
            )
        return found

    def costs(self) -> dict[str, list[Cost]]:
        """What every unit took, by stage."""
        pairs = [pair for pair in self.attack.pairs if pair]
        stages: dict[str, Sequence[Unit | None]] = {
            "replication": self.replication,
            "ordinary": self.ordinary,
            "attack on controls": self.attack.controls,
            "attack on PATCHED": [pair.patched for pair in pairs],
            "attack on SOURCE": [pair.source for pair in pairs],
        }
        return {name: [unit.cost for unit in units if unit] for name, units in stages.items()}

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
        return not wanted or (attacked and len(self.attack.controls) == self.corpus["controls"])
