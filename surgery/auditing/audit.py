"""The audit: SOURCE and PATCHED side by side, from prompts to a verdict, `audit.json` and `audit.html`.

1. Both models are loaded and checked to be one architecture; prompts find their training images.
2. Replication: every prompt at fresh seeds, both models, similarity to the training image.
3. Ordinary prompts: what else changed, in units of what another seed changes.
4. Attacks, where asked for, one after the other (`surgery.auditing.attacks`).
5. The verdict, for each prompt and for the checkpoint; the two files, written whole or not at all.

Each measured unit is kept in OUTPUT/state until the audit is complete; the same command goes on from there.
Several processes share the units of a stage (`surgery.auditing.bench`); process 0 judges and writes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from surgery.auditing.attacks import run_attacks
from surgery.auditing.bench import Bench
from surgery.auditing.controls import GivenControls
from surgery.auditing.findings import Findings
from surgery.auditing.inputs import AuditInputs, Extras, Prepared, output_folder, prepare
from surgery.auditing.judgement.verdict import REMOVED, decide, decide_checkpoint
from surgery.auditing.measures.quality import ClipScore, distances_to_reference
from surgery.auditing.report.document import audit_document
from surgery.auditing.report.page import audit_page
from surgery.auditing.settings import GATES, AuditSettings
from surgery.auditing.stages import ordinary_jobs, replication_jobs
from surgery.auditing.units import OrdinaryUnit
from surgery.errors import UsageError
from surgery.files import json_text, write_atomically
from surgery.model.conditioning import count_cut_prompts
from surgery.model.libraries import silent_about_cut_prompts
from surgery.processes import Processes


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        document: the content of `audit.json`.
        page: the content of `audit.html`; "" on all processes but the first.
    """

    document: dict[str, Any]
    page: str

    @property
    def verdict(self) -> str:
        """The checkpoint's verdict."""
        return str(self.document["verdict"])

    def passes(self, gate: str) -> bool:
        """Whether a gate holds for all prompts.

        `replication`: every prompt was drawn, and PATCHED replicates none on more than the tolerated share
        of seeds. `attack`: the checkpoint's verdict is `removed`.

        Raises:
            UsageError: there is no such gate.
        """
        if gate not in GATES:
            raise UsageError(gate, "is not a gate", f"choose from {', '.join(GATES)}")
        if gate == "attack":
            return self.verdict == REMOVED
        tolerance = self.document["settings"]["tolerance"]
        drawn = [entry["replication"] for entry in self.document["prompts"]]
        return all(one is not None and one["after"]["share"] <= tolerance for one in drawn)


def audit(
    source: Any,
    patched: Any,
    prompts: str | Path | Sequence[str],
    images: str | Path | Mapping[str, Any] | None = None,
    masks: Mapping[str, Any] | None = None,
    control_images: GivenControls | None = None,
    ordinary_file: str | Path | None = None,
    twin: Any = None,
    base: Any = None,
    output: str | Path | None = None,
    settings: AuditSettings | None = None,
    extras: Extras | None = None,
    include_private: bool = False,
    max_forwards: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    processes: Processes | None = None,
    quiet: bool = True,
) -> AuditResult:
    """Compare a patched model with its source and say, per prompt and overall, whether a memory is gone.

    Args:
        source: the model before, as `surgery.model.pipeline.load_pipeline` takes it.
        patched: the model after.
        prompts: a corpus file, or captions.
        images: the training images, see `surgery.measures.subjects.subjects_from`; None: SOURCE's own
            pictures stand in for them.
        masks: for images given as a mapping, prompt -> mask.
        control_images: pictures that no model ever saw, see `surgery.auditing.controls.read_controls`; None:
            SOURCE draws them from ordinary prompts.
        ordinary_file: ordinary prompts; None: those beside SOURCE, or those of this package.
        twin: a model like SOURCE that never saw the images: the floor that every attack is compared with.
        base: the public model that SOURCE was made from, whose parts the attack `graft` puts into PATCHED.
        output: the folder for `audit.json` and `audit.html`, made if need be; None: nothing is written.
        settings: default `AuditSettings()`, which runs no attack.
        extras: the user's own files, for measures that need some.
        include_private: show prompts, training images and replicas.
        max_forwards: stop starting new work after so many UNet sample-forwards.
        device: as for `load_pipeline`.
        dtype: as for `load_pipeline`.
        processes: this process among those of the launcher, which share the work; default: the only one. They
            must see the same output folder.
        quiet: no progress bars, no notes.

    Returns:
        The document, the same on every process; the page on process 0 alone.

    Raises:
        UsageError: bad inputs, an output folder that holds a finished audit or an unfinished other one.
        SurgeryError: a model cannot be run, or another process failed.
    """
    processes = processes or Processes()
    inputs = AuditInputs(
        source=source,
        patched=patched,
        prompts=prompts,
        images=images,
        masks=masks,
        control_images=control_images,
        ordinary_file=ordinary_file,
        twin=twin,
        base=base,
        settings=settings or AuditSettings(),
        extras=extras or Extras(),
        include_private=include_private,
        max_forwards=max_forwards,
        device=device,
        dtype=dtype,
        quiet=quiet or not processes.is_main,
    )
    if output is not None:
        return _audit_into(output_folder(output), inputs, processes)
    with tempfile.TemporaryDirectory(prefix="surgery-audit-") as temporary:
        return _audit_into(Path(processes.from_main(temporary)), inputs, processes)


def _audit_into(folder: Path, inputs: AuditInputs, processes: Processes) -> AuditResult:
    prepared = prepare(inputs, folder, processes)
    findings, bench = prepared.findings, prepared.bench
    if not inputs.quiet:
        _note_cut_prompts(findings, bench)
    with silent_about_cut_prompts():
        _measure(prepared)
    result = _written(prepared, folder, inputs) if processes.is_main else AuditResult({}, "")
    return AuditResult(processes.from_main(result.document), result.page)


def _written(prepared: Prepared, folder: Path, inputs: AuditInputs) -> AuditResult:
    """Judge what was measured, and write the two files."""
    findings, bench, settings = prepared.findings, prepared.bench, inputs.settings
    _measure_quality(prepared, inputs.extras)
    evidence = findings.evidence()
    findings.verdicts = decide(
        evidence, findings.threshold, settings.tolerance, settings.alpha, settings.correction
    )
    findings.checkpoint = decide_checkpoint(findings.verdicts, evidence, settings.alpha)
    findings.work = _work(findings, bench)
    document = audit_document(findings, inputs.include_private)
    page = audit_page(findings, document, inputs.include_private, bench.store.pictures)
    write_atomically(folder / "audit.html", page.encode())
    write_atomically(folder / "audit.json", json_text(document).encode())
    if findings.complete:
        bench.store.remove()
    return AuditResult(document, page)


def _note_cut_prompts(findings: Findings, bench: Bench) -> None:
    """Say once what the libraries would say for every batch."""
    listed = {
        "ordinary prompts": list(findings.ordinary_prompts),
        "prompts": [subject.prompt for subject in findings.subjects],
    }
    counts = {name: count_cut_prompts(bench.source, prompts) for name, prompts in listed.items()}
    if any(counts.values()):
        parts = [f"{count} of {len(listed[name])} {name}" for name, count in counts.items() if count]
        print(f"note: {' and '.join(parts)} are longer than the text encoder reads; cut", file=sys.stderr)


def _measure(prepared: Prepared) -> None:
    findings, bench = prepared.findings, prepared.bench
    drawn = replication_jobs(bench, findings.subjects)
    others = ordinary_jobs(bench, findings.ordinary_prompts)
    found = bench.measured([*drawn, *others])
    findings.replication = [found.get(job.key) for job in drawn]
    findings.ordinary = [found.get(job.key) for job in others]
    run_attacks(prepared)


def _measure_quality(prepared: Prepared, extras: Extras) -> None:
    findings, store = prepared.findings, prepared.bench.store
    measured = [index for index, unit in enumerate(findings.ordinary) if unit is not None]
    if not measured:
        return

    def drawn(index: int, side: str) -> torch.Tensor:
        return store.pictures(OrdinaryUnit.key(index))[side]

    if extras.clip is not None:
        score = ClipScore(extras.clip)
        findings.quality["clip_score"] = {
            side: round(
                mean(score(findings.ordinary_prompts[index], drawn(index, side)) for index in measured), 4
            )
            for side in ("before", "after")
        }
    if extras.reference is not None and extras.features is not None:
        sets = {side: (drawn(index, side) for index in measured) for side in ("before", "after")}
        findings.quality["distances"] = distances_to_reference(
            extras.reference, extras.features, sets, prepared.size
        )


def _work(findings: Findings, bench: Bench) -> dict[str, Any]:
    """Sample-forwards and seconds of every unit, those of an earlier run included."""
    costs = findings.costs()
    by_stage = {
        name: {
            "sample_forwards": sum(cost.sample_forwards for cost in spent),
            "seconds": round(sum(cost.seconds for cost in spent), 2),
        }
        for name, spent in costs.items()
    }
    return {
        "sample_forwards": sum(stage["sample_forwards"] for stage in by_stage.values()),
        "seconds": round(sum(stage["seconds"] for stage in by_stage.values()), 2),
        "by_stage": by_stage,
        "this_run": bench.budget.spent,
        "max_forwards": bench.budget.limit,
    }
