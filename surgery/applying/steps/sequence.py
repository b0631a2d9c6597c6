"""The steps in their order; a new step is a module here and a line below."""

from __future__ import annotations

from surgery.applying.run import Run
from surgery.applying.steps.audit import Audit
from surgery.applying.steps.calibrate import Calibrate
from surgery.applying.steps.card import Card
from surgery.applying.steps.diff import Diff
from surgery.applying.steps.harden import Harden
from surgery.applying.steps.localize import GivenNeurons, Localize
from surgery.applying.steps.patch import Patch
from surgery.applying.steps.step import Step
from surgery.applying.steps.verify import Verify

SEARCH: tuple[Step, ...] = (Calibrate(), Localize(), GivenNeurons())
WRITE: tuple[Step, ...] = (Harden(), Patch(), Diff(), Audit(), Card(), Verify())


def steps_of(run: Run) -> list[Step]:
    """The steps that the recipe asks for."""
    return [step for step in (*SEARCH, *WRITE) if step.wanted(run)]
