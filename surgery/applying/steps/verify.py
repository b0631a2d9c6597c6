"""Verify: the folder is what it says of itself, nothing but the plan differs, nothing private lies there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.applying.run import Run
from surgery.applying.steps.patch import output_id
from surgery.applying.steps.step import Cost, Step
from surgery.errors import GateError
from surgery.publish.private import private_matter
from surgery.publish.verify import verify
from surgery.versions import library_versions

_SHOWN = 3


class Verify(Step):
    """The last word on the folder; `surgery upload` asks the same again."""

    name = "verify"

    def inputs(self, run: Run) -> dict[str, Any]:
        audited = run.request.recipe.audit is not None
        return {
            "model": run.model_id(),
            "neurons": run.plan_id(),
            "output": output_id(run),
            "audit": run.ledger.hashes.of(run.audit_file) if audited else None,
            "versions": library_versions(("surgery",)),
        }

    def do(self, run: Run) -> dict[str, Any]:
        request = run.request
        found = verify(
            request.output,
            source=request.located.path,
            plan=run.plan,
            audit=run.audit_file if request.recipe.audit is not None else None,
            quiet=request.quiet,
        )
        problems = [*found.violations, *private_matter(found.files, allow=request.recipe.patch.keep)]
        if problems:
            raise GateError(request.output, "; ".join(problems[:_SHOWN]), "do not publish it")
        return {"files": len(found.files), "rows": found.rows}

    def cost(self, run: Run) -> Cost:
        return Cost(note="reads source and output")

    def says(self, facts: Mapping[str, Any]) -> str:
        return f"{facts['files']} files verified, {facts['rows']} rows zero in every copy"
