"""Audit: does the output still hold the memories, also under attack?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.applying.dealing import shared
from surgery.applying.run import AUDIT, Run
from surgery.applying.sections import AuditSection
from surgery.applying.steps.patch import checkpoint_id
from surgery.applying.steps.step import Cost, Step
from surgery.auditing.settings import GATES
from surgery.versions import audit_versions

if TYPE_CHECKING:
    from surgery.auditing.audit import AuditResult
    from surgery.auditing.inputs import Extras

STATE = "state"  # what an unfinished audit leaves in its folder
_MODELS = ("twin", "base")
_FOLDERS = ("images", "control_images", *_MODELS, "clip", "fid_reference", "fid_features", "sscd")


class Audit(Step):
    """Asked for by the section `[audit]`."""

    name = "audit"

    def wanted(self, run: Run) -> bool:
        return run.request.recipe.audit is not None

    def inputs(self, run: Run) -> dict[str, Any]:
        settings = _section(run).settings.as_json()
        settings.pop("batch_size")
        return {
            "model": run.model_id(),
            "output": checkpoint_id(run),
            "neurons": run.plan_id(),
            "prompts": self._prompts(run),
            "files": {name: run.folder_id(name) for name in _FOLDERS},
            "ordinary prompts": run.request.ordinary,
            "settings": settings,
            "number type": run.number_type,
            "versions": audit_versions(),
        }

    def outputs(self, run: Run) -> list[Path]:
        return [run.audit_file, run.audit_file.with_suffix(".html")]

    def do(self, run: Run) -> dict[str, Any]:
        from surgery.auditing.audit import AuditResult, audit
        from surgery.model.pipeline import load_pipeline

        request, folder = run.request, run.work / AUDIT
        if run.audit_file.is_file() and not (folder / STATE).exists():
            # a run was killed between writing the audit and noting it
            return _facts(AuditResult(json.loads(run.audit_file.read_text(encoding="utf-8")), ""))
        patched = load_pipeline(
            str(request.checkpoint), request.device, request.dtype, variant=request.recipe.model.variant
        )
        result = audit(
            run.live,
            patched,
            self._prompts(run),
            output=folder,
            max_forwards=_section(run).max_forwards,
            device=request.device,
            dtype=request.dtype,
            quiet=request.quiet,
            extras=self._extras(run),
            **self._asked(run),
            **shared(self.name, run.processes),
        )
        return _facts(result)

    def is_complete(self, facts: Mapping[str, Any]) -> bool:
        return bool(facts["complete"])

    def clear(self, run: Run) -> None:
        shutil.rmtree(run.work / AUDIT, ignore_errors=True)

    def cost(self, run: Run) -> Cost:
        from surgery.auditing.estimate import estimate_inputs
        from surgery.auditing.inputs import AuditInputs

        request = run.request
        found = estimate_inputs(
            AuditInputs(
                source=request.model, patched=request.output, prompts=self._prompts(run), **self._asked(run)
            )
        )
        note = f"could say at most: {found.at_most.phrase}"
        return Cost(found.sample_forwards, "at most", note=note)

    def says(self, facts: Mapping[str, Any]) -> str:
        rest = "" if facts["complete"] else " (incomplete: run again to go on)"
        return f"{facts['phrase']}: {facts['reason']}{rest}"

    def _prompts(self, run: Run) -> list[str]:
        if _section(run).only_memorized and run.neurons_file.is_file():
            return run.memorized()
        return run.request.prompts

    def _asked(self, run: Run) -> dict[str, Any]:
        """Prompts' pictures, the user's files and the settings, by the names of `surgery.audit`."""
        files = run.request.files
        given = {name: files[name] for name in ("control_images", *_MODELS) if name in files}
        if "ordinary" in files:
            given["ordinary_file"] = files["ordinary"]
        return {**given, **run.pictures(self._prompts(run)), "settings": run.request.audit_settings()}

    def _extras(self, run: Run) -> Extras:
        from surgery.auditing.inputs import Extras

        files = run.request.files
        return Extras(
            neurons=run.neurons_file,
            clip=files.get("clip"),
            reference=files.get("fid_reference"),
            features=files.get("fid_features"),
            command=f"surgery apply {run.request.recipe.name}",
        )


def _section(run: Run) -> AuditSection:
    section = run.request.recipe.audit
    assert section is not None
    return section


def _facts(result: AuditResult) -> dict[str, Any]:
    """What `audit.json` says, in short."""
    document = result.document
    return {
        "verdict": document["verdict"],
        "phrase": document["phrase"],
        "reason": document["reason"],
        "counts": document["counts"],
        "complete": document["complete"],
        "forwards": document["work"]["sample_forwards"],
        "passes": {gate: result.passes(gate) for gate in GATES},
    }
