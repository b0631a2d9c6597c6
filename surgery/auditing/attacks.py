"""Every attack that an audit is asked for, in turn: controls, canaries, prompts.

Only prompts that SOURCE replicates and PATCHED no longer does are attacked: of the others nothing would be
learned. A short budget tells most in this order: the cheap question of whether an attack can see at all comes
before what it sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surgery.auditing.attack.protocol import Attack
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.attack.stages import Surroundings, attack_canaries, attack_controls, attack_subjects
from surgery.auditing.canaries import CanaryModels, canary_models
from surgery.auditing.controls import Control, captioned, make_controls
from surgery.auditing.findings import AttackFindings
from surgery.auditing.inputs import Prepared
from surgery.auditing.judgement.statistics import critical_score
from surgery.auditing.judgement.verdict import attack_wanted
from surgery.auditing.sensitivity import Sensitivity


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
    found = []
    for attack in [attack_class(name).from_settings(settings) for name in settings.attack]:
        found.append(_run(prepared, attack, controls, around, wanted, canaries))
        findings.attacks = tuple(found)


def _run(
    prepared: Prepared,
    attack: Attack,
    controls: Sequence[Control],
    around: Surroundings,
    wanted: Sequence[bool],
    canaries: CanaryModels | None,
) -> AttackFindings:
    bench = prepared.bench
    on_patched = attack_controls(bench, attack, controls, around)
    on_twin = attack_controls(bench, attack, controls, around, "twin") if bench.twin is not None else []
    sensitivity = None
    counts = attack.informative or bench.base is not None
    # a donor holds no canary: whatever is taken from it, none comes back
    if canaries is not None and attack.informative:
        before, weakly = (
            attack_canaries(bench, attack, canaries.taken, around, model, stage)
            for model, stage in ((canaries.before, "before"), (canaries.weakly_edited, "edited"))
        )
        scores = [unit.score() for unit in on_patched]
        sensitivity = Sensitivity(
            wanted=bench.settings.canaries,
            took=len(canaries.taken),
            critical=critical_score(scores, bench.settings.alpha),
            threshold=bench.similarity.threshold,
            before=before,
            weakly_edited=weakly,
        )
    return AttackFindings(
        name=attack.name,
        effort=attack.effort,
        passes_edit=attack.passes_edit,
        learns=attack.learns,
        counts=counts,
        shortfall=attack.shortfall,
        controls=on_patched,
        controls_twin=on_twin,
        pairs=attack_subjects(bench, attack, around, wanted),
        canaries=sensitivity,
    )


def _canaries(prepared: Prepared, controls: int) -> CanaryModels | None:
    """The canaries and the two models that hold them; None where none are asked for."""
    bench, settings = prepared.bench, prepared.bench.settings
    if not settings.canaries:
        return None
    prompts = list(prepared.findings.ordinary_prompts)
    pictures = captioned(make_controls(bench, prompts, settings.canaries, skipped=controls), prompts)
    return canary_models(bench, pictures, prompts)


def _distinct_masks(
    masks: Sequence[torch.Tensor | None],
) -> tuple[list[torch.Tensor | None], list[int]]:
    """The different masks, and for each subject the place of its own among them."""
    keys = [None if mask is None else mask.numpy().tobytes() for mask in masks]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    different = dict(zip(keys, masks, strict=True))
    return [different[key] for key in places], [places[key] for key in keys]
