"""Every attack that an audit is asked for: controls, canaries, prompts.

Only prompts that SOURCE replicates and PATCHED no longer does are attacked: of the others nothing would be
learned. A short budget tells most in this order, attack after attack: the cheap question of whether an attack
can see at all comes before what it sees. Without a limit the order tells nothing. Then everything that needs
no canaries is dealt out while one process teaches them, and the attacks on canaries come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surgery.auditing.attack.protocol import Attack
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.attack.stages import Surroundings, canary_jobs, control_jobs, subject_jobs
from surgery.auditing.bench import Job
from surgery.auditing.canaries import Canaries
from surgery.auditing.controls import Control, captioned, make_controls
from surgery.auditing.findings import AttackFindings
from surgery.auditing.inputs import Prepared
from surgery.auditing.judgement.statistics import critical_score
from surgery.auditing.judgement.verdict import attack_wanted
from surgery.auditing.sensitivity import Sensitivity
from surgery.auditing.units import AttackPair, AttackUnit


def run_attacks(prepared: Prepared) -> None:
    """Run the attacks that the settings name, and put what they found into the findings."""
    findings, bench = prepared.findings, prepared.bench
    settings = bench.settings
    wanted = [attack_wanted(one, settings.tolerance) for one in findings.evidence()]
    if not settings.attack or not any(wanted):
        return
    masks, findings.mask_places = _distinct_masks([subject.mask for subject in findings.subjects])
    prompts = list(findings.ordinary_prompts)
    around = Surroundings(findings.subjects, masks, prompts or [""])
    controls = prepared.controls
    if controls is None:
        controls = make_controls(bench, prompts, settings.controls)
    canaries = _canaries(prepared, len(controls))
    plans = [
        _Plan(prepared, attack_class(name).from_settings(settings), controls, around, wanted, canaries)
        for name in settings.attack
    ]
    teaching = [] if canaries is None else canaries.jobs()
    if bench.budget.limit is None:
        found = bench.measured([*teaching, *(job for plan in plans for job in plan.others)])
        _learn(canaries, found)
        found |= bench.measured([job for plan in plans for job in plan.on_canaries])
    else:
        found = bench.measured(teaching)
        _learn(canaries, found)
        found |= bench.measured([job for plan in plans for job in plan.in_order])
    findings.attacks = tuple(plan.findings(found) for plan in plans)


@dataclass(frozen=True)
class _Plan:
    """All that one attack attacks; `wanted` says of each prompt whether it is among it."""

    prepared: Prepared
    attack: Attack
    given: Sequence[Control]
    around: Surroundings
    wanted: Sequence[bool]
    canaries: Canaries | None

    @property
    def in_order(self) -> list[Job]:
        """Everything, as a short budget tells most."""
        return [*self.controls, *self.controls_twin, *self.on_canaries, *self.subjects]

    @property
    def others(self) -> list[Job]:
        """Everything that needs no canary."""
        return [*self.controls, *self.controls_twin, *self.subjects]

    @property
    def controls(self) -> list[Job]:
        return control_jobs(self.prepared.bench, self.attack, self.given, self.around)

    @property
    def controls_twin(self) -> list[Job]:
        if self.prepared.bench.twin is None:
            return []
        return control_jobs(self.prepared.bench, self.attack, self.given, self.around, "twin")

    @property
    def subjects(self) -> list[Job]:
        return subject_jobs(self.prepared.bench, self.attack, self.around, self.wanted)

    @property
    def on_canaries(self) -> list[Job]:
        """Those on canaries, before and after the weak edit; to be asked for once they are taught."""
        return [*self._on_canaries("before"), *self._on_canaries("edited")]

    def findings(self, found: Mapping[str, Any]) -> AttackFindings:
        """What came of it, as far as the budget went."""
        bench = self.prepared.bench
        on_patched = _made(self.controls, found)
        sensitivity = None
        if self.canaries is not None and self.attack.informative:
            scores = [unit.score() for unit in on_patched]
            sensitivity = Sensitivity(
                wanted=bench.settings.canaries,
                took=len(self.canaries.taken),
                critical=critical_score(scores, bench.settings.alpha),
                threshold=bench.similarity.threshold,
                before=_made(self._on_canaries("before"), found),
                weakly_edited=_made(self._on_canaries("edited"), found),
            )
        return AttackFindings(
            name=self.attack.name,
            effort=self.attack.effort,
            passes_edit=self.attack.passes_edit,
            learns=self.attack.learns,
            counts=self.attack.informative or bench.base is not None,
            shortfall=self.attack.shortfall,
            controls=on_patched,
            controls_twin=_made(self.controls_twin, found),
            pairs=[self._pair(index, found) for index in range(len(self.around.subjects))],
            canaries=sensitivity,
        )

    def _on_canaries(self, stage: str) -> list[Job]:
        # a donor holds no canary: whatever is taken from it, none comes back
        if self.canaries is None or not self.attack.informative:
            return []
        model = {"before": self.canaries.before, "edited": self.canaries.weakly_edited}[stage]
        return canary_jobs(self.prepared.bench, self.attack, self.canaries.taken, self.around, model, stage)

    def _pair(self, index: int, found: Mapping[str, Any]) -> AttackPair | None:
        if not self.wanted[index]:
            return None
        keys = {side: AttackUnit.key(self.attack.name, side, index) for side in self.prepared.bench.models}
        pair = {side: found.get(key) for side, key in keys.items()}
        return AttackPair(**pair) if any(pair.values()) else None


def _made(jobs: Sequence[Job], found: Mapping[str, Any]) -> list[AttackUnit]:
    return [found[job.key] for job in jobs if job.key in found]


def _learn(canaries: Canaries | None, found: Mapping[str, Any]) -> None:
    if canaries is not None:
        canaries.learn(found)


def _canaries(prepared: Prepared, controls: int) -> Canaries | None:
    """The canaries; None where none are asked for."""
    bench, settings = prepared.bench, prepared.bench.settings
    if not settings.canaries:
        return None
    prompts = list(prepared.findings.ordinary_prompts)
    pictures = captioned(make_controls(bench, prompts, settings.canaries, skipped=controls), prompts)
    return Canaries(bench, pictures, prompts)


def _distinct_masks(
    masks: Sequence[torch.Tensor | None],
) -> tuple[list[torch.Tensor | None], list[int]]:
    """The different masks, and for each subject the place of its own among them."""
    keys = [None if mask is None else mask.numpy().tobytes() for mask in masks]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    different = dict(zip(keys, masks, strict=True))
    return [different[key] for key in places], [places[key] for key in keys]
