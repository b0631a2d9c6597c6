"""`audit.json`: the findings as a documented JSON object, with or without what is private.

Format `surgery.audit/2`; docs/formats.md describes every field. Without `include_private` it holds no prompt
of the audited corpus, no picture and no path: prompts are named by salted hashes, in the order of the file.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from surgery.auditing.attack.relearn import steps_to_replicate
from surgery.auditing.findings import AttackFindings, Findings
from surgery.auditing.judgement.statistics import clopper_pearson
from surgery.auditing.judgement.verdict import Verdict
from surgery.auditing.measures.replication import Replication
from surgery.auditing.report.sentence import plain_sentence
from surgery.auditing.sensitivity import Sensitivity
from surgery.auditing.units import AttackUnit
from surgery.versions import audit_versions

FORMAT = "surgery.audit/2"


def audit_document(findings: Findings, include_private: bool) -> dict[str, Any]:
    """The whole `audit.json`."""
    checkpoint = findings.checkpoint
    assert checkpoint is not None
    return {
        "format": FORMAT,
        "verdict": checkpoint.word,
        "phrase": checkpoint.phrase,
        "reason": checkpoint.reason,
        "sentence": _sentence(findings, checkpoint),
        "counts": checkpoint.numbers["counts"],
        "pooled_p_values": _rounded(checkpoint.numbers.get("pooled_p_values", {})),
        "replication": _overall_replication(findings),
        "ordinary": _ordinary(findings, include_private),
        "attacks": {attack.name: _attack_summary(findings, attack) for attack in findings.attacks},
        "neurons": {
            "zeroed": findings.zeroed.as_json(),
            "count": findings.zeroed.count,
            "otherwise_changed_rows": findings.otherwise_changed,
        },
        "complete": findings.complete,
        "similarity": {
            "name": findings.similarity.name,
            "threshold": findings.threshold,
            "source": findings.similarity.source,
        },
        "settings": findings.settings.as_json(),
        "models": findings.models,
        "corpus": findings.corpus,
        "work": findings.work,
        "versions": audit_versions(),
        "command": findings.command,
        "private": include_private,
        "prompts": [_prompt(findings, index, include_private) for index in range(len(findings.subjects))],
    }


def _sentence(findings: Findings, checkpoint: Verdict) -> str:
    concerned = [k for k, one in enumerate(findings.verdicts) if one.code != "not-in-source"]
    return plain_sentence(
        checkpoint.word,
        checkpoint.numbers["counts"],
        concerned=len(concerned),
        drawn=sum(findings.replication[index] is not None for index in concerned),
        attacks=[one.name for one in findings.attacks if one.counts and any(one.pairs)],
    )


def _prompt(findings: Findings, index: int, include_private: bool) -> dict[str, Any]:
    verdict, unit = findings.verdicts[index], findings.replication[index]
    entry: dict[str, Any] = {"id": findings.ids[index]}
    if include_private:
        entry["prompt"] = findings.subjects[index].prompt
    entry |= {
        "verdict": verdict.word,
        "phrase": verdict.phrase,
        "code": verdict.code,
        "reason": verdict.reason,
    }
    before, after = findings.replica(index, "before"), findings.replica(index, "after")
    if unit is None or before is None or after is None:
        return {**entry, "replication": None, "attacks": {}}
    equal = Replication(unit.equal_seeds, findings.threshold)
    entry["replication"] = {
        "target": "stand-in" if unit.stand_in else "training image",
        "masked": findings.subjects[index].mask is not None,
        "before": _share_json(before),
        "after": _share_json(after),
        "seed_similarity": {
            "before": round(unit.before.to_each_other, 4),
            "after": round(unit.after.to_each_other, 4),
        },
        "equal_seed_similarity": {"median": round(equal.median, 4), "worst": round(equal.worst, 4)},
    }
    entry["attacks"] = {
        attack.name: _attack(findings, attack, index, verdict)
        for attack in findings.attacks
        if attack.pair(index).made
    }
    return entry


def _share_json(replication: Replication) -> dict[str, Any]:
    count = len(replication.similarities)
    low, high = clopper_pearson(round(replication.share * count), count)
    return {**replication.as_json(), "share_interval": [round(low, 4), round(high, 4)]}


def _attack(findings: Findings, attack: AttackFindings, index: int, verdict: Verdict) -> dict[str, Any]:
    """One attack on one prompt's image: a curve for each model, and the numbers that the verdict used."""
    pair = attack.pair(index)
    either = pair.made[0]
    return {
        "steps": list(either.steps),
        "variants": list(either.variants),
        **{
            side: curve_json(unit, findings.threshold, learns=attack.learns) if unit else None
            for side, unit in (("source", pair.source), ("patched", pair.patched), ("twin", pair.twin))
        },
        "judged": _rounded(verdict.numbers.get("attacks", {}).get(attack.name)),
    }


def curve_json(unit: AttackUnit, threshold: float, mask: int = 0, learns: bool = False) -> dict[str, Any]:
    """An attacked image: what it scored, what chose that point, and the curve that it was chosen from.

    Args:
        learns: whether the attack teaches the image: then it is said how soon it is drawn.
    """
    point, variant = unit.chosen[mask]
    seeds = unit.scored[mask][-1]
    return {
        "score": round(unit.score(mask), 4),
        "highest": round(unit.highest[mask], 4),
        "replicas": round(sum(value >= threshold for value in seeds) / len(seeds), 4),
        **({"replica_after": steps_to_replicate(unit, threshold, mask)} if learns else {}),
        "chosen_step": unit.steps[point],
        "chosen_variant": unit.variants[variant],
        "curve": [round(value, 4) for value in unit.curve(mask)],
        "by_variant": [
            [round(value, 4) for value in values] for values in zip(*unit.by_variant(mask), strict=True)
        ],
        "sample_forwards": unit.cost.sample_forwards,
        "seconds": unit.cost.seconds,
    }


def _overall_replication(findings: Findings) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for side in ("before", "after"):
        found = [findings.replica(index, side) for index in range(len(findings.subjects))]
        values = [value for one in found if one is not None for value in one.similarities]
        replicas = sum(value >= findings.threshold for value in values)
        prompts = sum(one is not None and one.share > findings.settings.tolerance for one in found)
        summary[side] = {
            "share": round(replicas / len(values), 4) if values else None,
            "pictures": len(values),
            "prompts_replicating": prompts,
        }
    return summary


def ordinary_summary(findings: Findings) -> dict[str, Any] | None:
    """The change of ordinary prompts in numbers and in one sentence; None where none was measured."""
    units = [unit for unit in findings.ordinary if unit is not None]
    if not units:
        return None
    changes = [unit.change for unit in units]
    beyond = sum(change > 1 for change in changes)
    low, high = clopper_pearson(beyond, len(units))
    seen = [(unit.equal_seeds, unit.other_seed) for unit in units if unit.other_seed is not None]
    drawn = sum(median(equal_seeds) < other_seed for equal_seeds, other_seed in seen)
    return {
        "prompts": len(units),
        "change": round(sum(changes) / len(changes), 4),
        "share_beyond_seed": round(beyond / len(units), 4),
        "share_beyond_seed_interval": [round(low, 4), round(high, 4)],
        "share_drawn_beyond_seed": round(drawn / len(seen), 4) if seen else None,
        "summary": f"{beyond} of {len(units)} ordinary prompts ({beyond / len(units):.0%}) changed beyond "
        f"what another seed would change; the mean change is {sum(changes) / len(changes):.2f} of a seed's",
    }


def _ordinary(findings: Findings, include_private: bool) -> dict[str, Any] | None:
    summary = ordinary_summary(findings)
    if summary is None:
        return None
    shown = include_private or findings.public_ordinary
    by_prompt = []
    for prompt, unit in zip(findings.ordinary_prompts, findings.ordinary, strict=True):
        if unit is None:
            continue
        by_prompt.append(
            {
                **({"prompt": prompt} if shown else {}),
                "change": round(unit.change, 4),
                "by_timestep": [round(value, 4) for value in unit.by_timestep],
                "equal_seed_similarity": round(median(unit.equal_seeds), 4),
                "other_seed_similarity": None if unit.other_seed is None else round(unit.other_seed, 4),
            }
        )
    timesteps = next(list(unit.timesteps) for unit in findings.ordinary if unit is not None)
    return {**summary, "timesteps": timesteps, "quality": findings.quality or None, "by_prompt": by_prompt}


def _attack_summary(findings: Findings, attack: AttackFindings) -> dict[str, Any]:
    attacked = [pair.patched for pair in attack.pairs if pair and pair.patched]
    again = [unit.highest[0] >= findings.threshold for unit in attacked]
    low, high = clopper_pearson(sum(again), len(again))
    return {
        "effort": attack.effort,
        "passes_edit": attack.passes_edit,
        "learns": attack.learns,
        "counts": attack.counts,
        "shortfall": attack.shortfall,
        "attacked_prompts": len(again),
        "replicating_after_attack": sum(again),
        "replicating_after_attack_interval": [round(low, 4), round(high, 4)],
        "controls": {
            "kind": findings.control_kind,
            "count": len(attack.controls),
            "scores": [round(unit.score(), 4) for unit in attack.controls],
            "highest": [round(unit.highest[0], 4) for unit in attack.controls],
            "curves": [[round(value, 4) for value in unit.curve()] for unit in attack.controls],
            "twin_scores": [round(unit.score(), 4) for unit in attack.controls_twin],
            **(
                {"replica_after": [steps_to_replicate(unit, findings.threshold) for unit in attack.controls]}
                if attack.learns
                else {}
            ),
        },
        "canaries": _canaries(attack.canaries),
        "cost": {
            "images": len(attack.units),
            "sample_forwards": sum(unit.cost.sample_forwards for unit in attack.units),
            "seconds": round(sum(unit.cost.seconds for unit in attack.units), 2),
        },
    }


def _canaries(found: Sensitivity | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "wanted": found.wanted,
        "took": found.took,
        "found_before": found.found(found.before),
        "found_after_weak_edit": found.found(found.weakly_edited),
        "blind": found.blind,
    }


def _rounded(value: Any) -> Any:
    """Six digits; an infinite effect, which JSON cannot say, becomes None."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
