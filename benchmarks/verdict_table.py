"""What `benchmarks/verdict.py` prints of its audits, and what it keeps of them for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

TRUTH = {
    "unpatched": "still replicates",
    "zeroed": "hidden, not removed",
    "closed": "hidden, not removed",
    "twin": "removed",
}


def print_table(documents: list[dict[str, Any]]) -> None:
    """Verdict x model, then attack x model, then each prompt's scores."""
    from surgery.auditing.judgement.verdict import WORDS

    print(f"\n{'model':<10} " + " ".join(f"{word:>20}" for word in WORDS) + "   right  checkpoint")
    for document in documents:
        counts = " ".join(f"{document['counts'][word]:>20}" for word in WORDS)
        truth = TRUTH.get(document["job"])
        right = f"{document['counts'][truth]} of {len(document['names'])}" if truth else "-"
        print(f"{document['job']:<10} {counts} {right:>7}  {document['phrase']}")
    print(f"\n{'model':<10} {'attack':<14} {'brought back':>13} {'median':>7} {'highest':>8} {'controls':>9}"
          f" {'their highest':>14} {'forwards':>10} {'seconds':>8}")  # fmt: skip
    for document in documents:
        for name, attack in document["attacks"].items():
            scores = attack_scores(document, name)
            if not scores:
                continue
            controls = attack["controls"]["scores"] or [float("nan")]
            print(
                f"{document['job']:<10} {name + ' ' + str(attack['effort']):<14} "
                f"{attack['replicating_after_attack']:>6} of {attack['attacked_prompts']:<3} "
                f"{median(scores):>7.2f} {max(scores):>8.2f} {median(controls):>9.2f} {max(controls):>14.2f} "
                f"{attack['cost']['sample_forwards']:>10} {attack['cost']['seconds']:>8.0f}"
            )
    for document in documents:
        print_prompts(document)


def evidence_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What the verdicts of one audit were drawn from: the fields of `Evidence` and `AttackEvidence`."""
    found = []
    for entry in document["prompts"]:
        attacks = []
        for name, attack in entry["attacks"].items():
            summary = document["attacks"][name]
            known = {side: attack[side] or {} for side in ("source", "patched", "twin")}
            attacks.append(
                {
                    **{part: summary[part] for part in ("effort", "passes_edit", "learns", "shortfall")},
                    "name": name,
                    **{side: one.get("score") for side, one in known.items()},
                    "highest": known["patched"].get("highest"),
                    "twin_highest": known["twin"].get("highest"),
                    "controls": summary["controls"]["scores"],
                    "controls_highest": max(summary["controls"]["highest"], default=None),
                    "controls_twin": summary["controls"]["twin_scores"],
                }
            )
        replication = entry["replication"]
        found.append(
            {
                "before": replication["before"]["share"],
                "after": replication["after"]["share"],
                "tried": document["settings"]["seeds"],
                "attacks": attacks,
            }
        )
    return found


def record(file: Path, documents: list[dict[str, Any]]) -> None:
    """Write what the verdicts were drawn from; models that were recorded before and not audited now stay."""
    known = json.loads(file.read_text()) if file.exists() else {"memories": {}, "models": {}}
    recorded = {
        "similarity": documents[0]["similarity"],
        "memories": {**known["memories"], **{one["job"]: one["names"] for one in documents}},
        "models": {**known["models"], **{one["job"]: evidence_of(one) for one in documents}},
    }
    file.write_text(json.dumps(recorded, indent=1) + "\n")


def attack_scores(document: dict[str, Any], name: str) -> list[float]:
    """What one attack scored on PATCHED, prompt by prompt."""
    found = [entry["attacks"].get(name) for entry in document["prompts"]]
    return [one["patched"]["score"] for one in found if one and one["patched"]]


def print_prompts(document: dict[str, Any]) -> None:
    """One model's prompts: the score of every attack, SOURCE's in brackets."""
    before, after = (document["replication"][side] for side in ("before", "after"))
    print(
        f"\n{document['job']}: replication {before['share']:.0%} -> {after['share']:.0%}"
        f" of {after['pictures']} pictures; {document['reason']};"
        f" {document['work']['sample_forwards']} sample-forwards, {document['wall_seconds']:.0f} s"
    )
    print(f"  {'memory':<10}" + "".join(f" {name:>20}" for name in document["attacks"]) + "   verdict")
    for name, entry in zip(document["names"], document["prompts"], strict=True):
        cells = [
            f"{shown(attack['patched'])} {shown(attack['twin'])} ({shown(attack['source'])})"
            if (attack := entry["attacks"].get(which))
            else "-"
            for which in document["attacks"]
        ]
        print(f"  {name:<10}" + "".join(f" {cell:>20}" for cell in cells) + f"   {entry['phrase']}")


def shown(unit: dict[str, Any] | None) -> str:
    """A score; nothing where there is none."""
    return f"{unit['score']:.2f}" if unit else ""
