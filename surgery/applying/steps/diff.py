"""Diff: nothing but the plan differs from the source, in every tensor and every file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.applying.run import Run
from surgery.applying.steps.patch import Patch, checkpoint_id, is_staged
from surgery.applying.steps.step import Cost, Step
from surgery.errors import GateError
from surgery.versions import library_versions

_SHOWN = 3


class Diff(Step):
    """The proof, before anything is measured on the output."""

    name = "diff"

    def inputs(self, run: Run) -> dict[str, Any]:
        return {
            "model": run.model_id(),
            "neurons": run.plan_id(),
            "output": checkpoint_id(run),
            "versions": library_versions(("surgery",)),
        }

    def do(self, run: Run) -> dict[str, Any]:
        found = list(self._violations(run))
        if found:
            run.ledger.forget(Patch.name)  # so that the next run writes anew
            shown = "; ".join(found[:_SHOWN])
            raise GateError(
                run.request.output,
                f"differs from its source in more than the plan ({shown})",
                "do not publish it",
            )
        return {}

    def _violations(self, run: Run) -> tuple[str, ...]:
        request = run.request
        if is_staged(run):  # then the card and its section are there, which `diff` knows nothing of
            from surgery.publish.verify import verify

            found = verify(request.output, source=request.located.path, plan=run.plan, quiet=request.quiet)
            return found.violations
        from surgery.checkpoint.diff import diff

        proof = diff(request.located.path, request.checkpoint, plan=run.plan, quiet=request.quiet)
        return tuple(str(one) for one in proof.violations or ())

    def cost(self, run: Run) -> Cost:
        return Cost(note="reads source and output")

    def says(self, facts: Mapping[str, Any]) -> str:
        return "nothing but the plan differs from the source"
