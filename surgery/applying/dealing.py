"""Which steps are dealt out to all processes of a launcher; the others are process 0's alone.

This is the one place to change when another of surgery's functions takes `processes=`: its step's name goes
into `DEALT_OUT`. All processes then enter the step, and `shared` hands them on.
"""

from __future__ import annotations

from typing import Any

from surgery.processes import Processes

DEALT_OUT = ("localize", "harden", "audit")


def is_dealt_out(step: str) -> bool:
    """Whether all processes work on a step."""
    return step in DEALT_OUT


def shared(step: str, processes: Processes) -> dict[str, Any]:
    """The argument `processes` for the function of a step, where it takes one."""
    return {"processes": processes} if is_dealt_out(step) else {}
