"""Everything that one audit found, before it is turned into `audit.json` and `audit.html`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.verdict import Verdict, attack_wanted
from surgery.auditing.measures.replication import Replication
from surgery.auditing.sensitivity import Sensitivity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackPair, AttackUnit, Cost, OrdinaryUnit, ReplicationUnit, Unit
from surgery.measures.similarity import Similarity
from surgery.measures.subjects import Subject
from surgery.neurons import NeuronSet


@dataclass(frozen=True)
class AttackFindings:
    """What one attack found.

    Attributes:
        name: of the attack.
        effort: what it spends on one image: the number beside its name in a verdict.
        passes_edit, learns: as `surgery.auditing.attack.protocol.Attack` says.
        counts: whether it has a say in the verdict.
        shortfall: why it is weaker than its effort says; "" where it is not.
        controls: on each control image, on PATCHED, under every mask in use.
        controls_twin: the same on the twin; empty without one.
        pairs: on each subject's image, on every model; None where it was not wanted or not made.
        canaries: what it found of pictures that are known to be there; None where none were asked for.
    """

    name: str
    effort: int
    passes_edit: bool = True
    learns: bool = False
    counts: bool = True
    shortfall: str = ""
    controls: Sequence[AttackUnit] = ()
    controls_twin: Sequence[AttackUnit] = ()
    pairs: Sequence[AttackPair | None] = ()
    canaries: Sensitivity | None = None

    def pair(self, index: int) -> AttackPair:
        """The attack on a subject's image, on every model as far as it was made."""
        return (self.pairs[index] if self.pairs else None) or AttackPair()

    @property
    def units(self) -> list[AttackUnit]:
        """All that were made, canaries included."""
        own = [*self.controls, *self.controls_twin]
        own += [unit for pair in self.pairs if pair for unit in pair.made]
        return own + ([*self.canaries.before, *self.canaries.weakly_edited] if self.canaries else [])

    def evidence(self, index: int, place: int) -> AttackEvidence:
        """What the verdict on a subject is drawn from; `place` is its mask's in the control units."""
        pair = self.pair(index)
        scores = {
            side: unit.score() if unit else None
            for side, unit in (("source", pair.source), ("patched", pair.patched), ("twin", pair.twin))
        }
        return AttackEvidence(
            name=self.name,
            effort=self.effort,
            passes_edit=self.passes_edit,
            learns=self.learns,
            shortfall=self.shortfall,
            highest=pair.patched.highest[0] if pair.patched else None,
            controls=tuple(unit.score(place) for unit in self.controls),
            controls_highest=max((unit.highest[place] for unit in self.controls), default=None),
            twin_highest=pair.twin.highest[0] if pair.twin else None,
            controls_twin=tuple(unit.score(place) for unit in self.controls_twin),
            blind=self.canaries.blind if self.canaries else "",
            **scores,
        )


@dataclass
class Findings:
    """The measured units of an audit, the verdicts drawn from them, and what was audited.

    Attributes:
        ids: of the subjects, hashed with a secret salt.
        public_ordinary: whether the ordinary prompts may be shown.
        replication: one per subject; None where it was not measured.
        ordinary: one per ordinary prompt; None where it was not measured.
        attacks: those that were run; empty where none was.
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
    attacks: Sequence[AttackFindings] = ()
    has_twin: bool = False
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

    def mask_place(self, index: int) -> int:
        """Which of the masks in a control unit is this subject's."""
        return self.mask_places[index] if self.mask_places else 0

    def evidence(self) -> list[Evidence]:
        """What the verdict is drawn from, one per subject."""
        found = []
        for index in range(len(self.subjects)):
            before, after = self.replica(index, "before"), self.replica(index, "after")
            unit = self.replication[index]
            found.append(
                Evidence(
                    before=before.share if before else None,
                    after=after.share if after else None,
                    tried=len(unit.before.to_target) if unit else 0,
                    attacks=tuple(
                        attack.evidence(index, self.mask_place(index))
                        for attack in self.attacks
                        if attack.counts
                    ),
                    canaries=self.canaries_taken,
                )
            )
        return found

    @property
    def canaries_taken(self) -> int:
        """How many canaries SOURCE's copy learned: of those that were asked for, what a word may claim."""
        counts = [attack.canaries.took for attack in self.attacks if attack.canaries is not None]
        return min(counts, default=0)

    def costs(self) -> dict[str, list[Cost]]:
        """What every unit took, by stage."""
        stages: dict[str, Sequence[Unit | None]] = {
            "replication": self.replication,
            "ordinary": self.ordinary,
            **{f"attack: {attack.name}": attack.units for attack in self.attacks},
        }
        return {name: [unit.cost for unit in units if unit] for name, units in stages.items()}

    @property
    def complete(self) -> bool:
        """Whether everything asked for was measured: false where a budget ended the audit."""
        if any(unit is None for unit in (*self.replication, *self.ordinary)):
            return False
        wanted = [
            index for index, one in enumerate(self.evidence()) if attack_wanted(one, self.settings.tolerance)
        ]
        if not self.settings.attack or not wanted:
            return True
        return len(self.attacks) == len(self.settings.attack) and all(
            self._attack_complete(attack, wanted) for attack in self.attacks
        )

    def _attack_complete(self, attack: AttackFindings, wanted: Sequence[int]) -> bool:
        models = 3 if self.has_twin else 2
        controls = [attack.controls] + ([attack.controls_twin] if self.has_twin else [])
        return (
            all(len(attack.pair(index).made) == models for index in wanted)
            and all(len(units) == self.corpus["controls"] for units in controls)
            and (attack.canaries is None or attack.canaries.complete)
        )
