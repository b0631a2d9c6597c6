"""The audit: SOURCE and PATCHED side by side, from prompts to a verdict, `audit.json` and `audit.html`.

1. Both models are loaded and checked to be one architecture; prompts find their training images.
2. Replication: every prompt at fresh seeds, both models, similarity to the training image.
3. Ordinary prompts: what else changed, in units of what another seed changes.
4. Attack, if asked for: control images on PATCHED, then every prompt that PATCHED no longer draws, on both.
5. The verdict, for each prompt and for the checkpoint; the two files, written whole or not at all.

Each measured unit is kept in OUTPUT/state until the audit is complete; the same command goes on from there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from surgery.auditing.attack.stages import attack_controls, attack_subjects, make_controls
from surgery.auditing.findings import Findings, attack_wanted
from surgery.auditing.inputs import Extras, output_folder, prepare, similarity_from
from surgery.auditing.judgement.verdict import REMOVED, decide, decide_checkpoint
from surgery.auditing.measures.pictures import picture_size
from surgery.auditing.measures.quality import ClipScore, distances_to_reference
from surgery.auditing.report.document import audit_document
from surgery.auditing.report.page import audit_page
from surgery.auditing.settings import GATES, AuditSettings
from surgery.auditing.stages import Bench, Unit, ordinary, replicate
from surgery.auditing.store import unpack
from surgery.corpus import collect_prompts, read_prompts
from surgery.errors import UsageError
from surgery.files import json_text, write_atomically
from surgery.model.pipeline import load_pipeline


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        document: the content of `audit.json`.
        page: the content of `audit.html`.
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
    control_images: str | Path | Sequence[torch.Tensor] | None = None,
    ordinary_file: str | Path | None = None,
    output: str | Path | None = None,
    settings: AuditSettings | None = None,
    extras: Extras | None = None,
    include_private: bool = False,
    max_forwards: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quiet: bool = True,
) -> AuditResult:
    """Compare a patched model with its source and say, per prompt and overall, whether a memory is gone.

    Args:
        source, patched: as `surgery.model.pipeline.load_pipeline` takes them.
        prompts: a corpus file, or captions.
        images: the training images, see `surgery.auditing.subjects.subjects_from`; None: SOURCE's own
            pictures stand in for them.
        masks: for images given as a mapping, prompt -> mask.
        control_images: a folder of pictures that neither model ever saw, or such pictures as uint8
            [3, height, width]; None: SOURCE draws them from ordinary prompts.
        ordinary_file: ordinary prompts; None: those beside SOURCE, or those of this package.
        output: the folder for `audit.json` and `audit.html`, made if need be; None: nothing is written.
        settings: default `AuditSettings()`, which runs no attack.
        include_private: show prompts, training images and replicas.
        max_forwards: stop starting new work after so many UNet sample-forwards.
        device, dtype: as for `load_pipeline`.
        quiet: no progress bars.

    Raises:
        UsageError: bad inputs, an output folder that holds a finished audit or an unfinished other one.
        SurgeryError: a model cannot be run.
    """
    settings, extras = settings or AuditSettings(), extras or Extras()
    if output is None:
        with tempfile.TemporaryDirectory(prefix="surgery-audit-") as temporary:
            return audit(source, patched, prompts, images, masks, control_images, ordinary_file, temporary,
                         settings, extras, include_private, max_forwards, device, dtype, quiet)  # fmt: skip
    folder = output_folder(output)
    corpus = read_prompts(prompts) if isinstance(prompts, str | Path) else collect_prompts(prompts)
    if not corpus.prompts:
        raise UsageError("prompts", "there are none", "give at least one caption")
    models = tuple(load_pipeline(one, device, dtype) for one in (source, patched))
    similarity = similarity_from(settings, models[0])
    findings, bench, controls = prepare(
        models,
        corpus,
        images,
        masks,
        control_images,
        ordinary_file,
        folder,
        settings,
        similarity,
        extras,
        include_private,
        quiet,
    )
    bench.budget.limit = max_forwards
    _measure(findings, bench, controls)
    _measure_quality(findings, bench, extras, picture_size(models[0]))
    evidence = findings.evidence()
    findings.verdicts = decide(evidence, settings.tolerance, settings.alpha, settings.correction)
    findings.checkpoint = decide_checkpoint(findings.verdicts, evidence, settings.alpha)
    findings.work = _work(findings, bench)
    findings.command = extras.command
    document = audit_document(findings, include_private)
    result = AuditResult(document, audit_page(findings, document, include_private, bench.store.load))
    write_atomically(folder / "audit.html", result.page.encode())
    write_atomically(folder / "audit.json", json_text(document).encode())
    if findings.complete:
        bench.store.remove()
    return result


def _measure(findings: Findings, bench: Bench, controls: list[torch.Tensor] | None) -> None:
    findings.replication = replicate(bench, findings.subjects)
    findings.ordinary = ordinary(bench, findings.ordinary_prompts)
    if not bench.settings.attack:
        return
    wanted = [attack_wanted(one, bench.settings.tolerance) for one in findings.evidence()]
    if not any(wanted):
        return
    masks, findings.mask_places = _distinct_masks([subject.mask for subject in findings.subjects])
    prompts = list(findings.ordinary_prompts)
    if controls is None:
        controls = make_controls(bench, prompts)
    findings.controls = attack_controls(bench, controls, masks, prompts or [""])
    findings.attacks = attack_subjects(bench, findings.subjects, wanted, prompts)


def _distinct_masks(
    masks: Sequence[torch.Tensor | None],
) -> tuple[list[torch.Tensor | None], list[int]]:
    """The different masks, and for each subject the place of its own among them."""
    keys = [None if mask is None else mask.numpy().tobytes() for mask in masks]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    different = dict(zip(keys, masks, strict=True))
    return [different[key] for key in places], [places[key] for key in keys]


def _measure_quality(findings: Findings, bench: Bench, extras: Extras, size: tuple[int, int]) -> None:
    measured = [index for index, unit in enumerate(findings.ordinary) if unit is not None]
    if not measured:
        return

    def drawn(index: int, side: str) -> torch.Tensor:
        unit = bench.store.load(f"ordinary-{index}")
        assert unit is not None
        return unpack(unit["pictures"][side])

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
        findings.quality["distances"] = distances_to_reference(extras.reference, extras.features, sets, size)


def _work(findings: Findings, bench: Bench) -> dict[str, Any]:
    """Sample-forwards and seconds of every unit, those of an earlier run included."""
    stages: dict[str, Sequence[Unit | None]] = {
        "replication": findings.replication,
        "ordinary": findings.ordinary,
        "attack on controls": findings.controls,
        "attack on PATCHED": [(pair or {}).get("patched") for pair in findings.attacks],
        "attack on SOURCE": [(pair or {}).get("source") for pair in findings.attacks],
    }
    by_stage = {}
    for name, units in stages.items():
        made = [unit for unit in units if unit is not None]
        by_stage[name] = {
            "sample_forwards": sum(unit["sample_forwards"] for unit in made),
            "seconds": round(sum(unit["seconds"] for unit in made), 2),
        }
    return {
        "sample_forwards": sum(stage["sample_forwards"] for stage in by_stage.values()),
        "seconds": round(sum(stage["seconds"] for stage in by_stage.values()), 2),
        "by_stage": by_stage,
        "this_run": bench.budget.work.unet_sample_forwards,
        "max_forwards": bench.budget.limit,
    }
