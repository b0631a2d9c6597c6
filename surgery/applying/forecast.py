"""The dry run: what a recipe would do, step by step, with sizes and UNet sample-forwards. Nothing is written.

No model is loaded: costs come from the settings, the corpus and the headers of the checkpoint. What a step
finds decides what the next one costs, so that a search is counted from below and all that follows from above.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.applying.apply import decide
from surgery.applying.ledger import NEW, Ledger
from surgery.applying.recipe import Recipe
from surgery.applying.request import make_request
from surgery.applying.results import UNCHANGED
from surgery.applying.run import Run
from surgery.applying.steps.patch import check_free, check_place
from surgery.applying.steps.sequence import steps_of
from surgery.errors import UsageError

UPSTREAM = "after the steps above"


@dataclass(frozen=True)
class PlannedStep:
    """One step of a dry run.

    Attributes:
        name: of the step.
        state: `unchanged`, or why it is to be done.
        forwards: UNet sample-forwards; None where the step makes none.
        bound: `at most` or `at least`.
        bytes: that it writes into the output.
        note: for people.
    """

    name: str
    state: str
    forwards: int | None
    bound: str
    bytes: int
    note: str


@dataclass(frozen=True)
class ApplyPlan:
    """What a recipe would do.

    Attributes:
        output, work: the folders that would be made.
        prompts: how many there are.
        steps: in their order.
        audited: whether there is an audit.
        repo_id: where the recipe wants the folder published.
    """

    output: Path
    work: Path
    prompts: int
    steps: tuple[PlannedStep, ...]
    audited: bool
    repo_id: str | None

    @property
    def forwards(self) -> int:
        """UNet sample-forwards of all steps that are to be done, by their bounds."""
        return sum(step.forwards or 0 for step in self.steps if step.state != UNCHANGED)

    @property
    def bytes(self) -> int:
        """What is written into the output."""
        return sum(step.bytes for step in self.steps if step.state != UNCHANGED)

    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        return {
            "output": str(self.output),
            "work": str(self.work),
            "prompts": self.prompts,
            "steps": [asdict(step) for step in self.steps],
            "sample_forwards": self.forwards,
            "bytes": self.bytes,
            "audited": self.audited,
            "repo_id": self.repo_id,
        }


def plan_recipe(recipe: Recipe | str | Path, output: str | Path, **asked: Any) -> ApplyPlan:
    """What `apply_recipe` would do with the same arguments.

    Raises:
        UsageError: as `apply_recipe`; or the model is a Hub id that is not in the cache yet, or its
            checkpoint cannot be patched.
    """
    request = make_request(recipe, output, **asked)
    if request.source is None:
        raise UsageError(
            request.model,
            "is not in the Hugging Face cache",
            f"download it first: hf download {request.model}",
        )
    run = Run(request, Ledger(request.work, request.output))
    check_free(run)
    check_place(run)
    planned: list[PlannedStep] = []
    for step in steps_of(run):
        cost = step.cost(run)
        if any(one.state != UNCHANGED for one in planned):
            state = UPSTREAM
        elif run.ledger.entry(step.name) is None:
            state = NEW  # and no file needs to be hashed to know it
        else:
            state = decide(step, run, step.inputs(run)) or UNCHANGED
        planned.append(PlannedStep(step.name, state, cost.forwards, cost.bound, cost.bytes, cost.note))
    return ApplyPlan(
        output=request.output,
        work=request.work,
        prompts=len(request.prompts),
        steps=tuple(planned),
        audited=request.recipe.audit is not None,
        repo_id=request.recipe.publish.repo_id,
    )
