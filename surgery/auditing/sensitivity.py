"""Positive controls: does an attack find pictures that are known to be in the weights?

Canaries are taught to a copy of SOURCE, which is then edited weakly (`surgery.auditing.canaries`). An attack
that does not find them before the edit, or not after the weak one, sees nothing: what it does not find in
PATCHED says nothing either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgery.auditing.units import AttackUnit

FOUND_SHARE = 0.8  # of the canaries must be found, before the edit and after the weak one


@dataclass(frozen=True)
class Sensitivity:
    """What one attack found of the canaries.

    Attributes:
        wanted: how many were asked for.
        took: how many of them the copy of SOURCE learned, and draws from their captions.
        critical: a score above it is more than a control's.
        threshold: a picture from here up is a replica.
        before: the attack on each canary that took, before the edit.
        weakly_edited: after the weak edit.
    """

    wanted: int
    took: int
    critical: float
    threshold: float
    before: Sequence[AttackUnit] = ()
    weakly_edited: Sequence[AttackUnit] = ()

    def found(self, units: Sequence[AttackUnit]) -> int:
        """How many of the canaries stand out from the controls, or are drawn as replicas."""
        return sum(unit.score() > self.critical or unit.highest[0] >= self.threshold for unit in units)

    @property
    def complete(self) -> bool:
        """Whether every canary that took was attacked on both models."""
        return len(self.before) == len(self.weakly_edited) == self.took

    @property
    def blind(self) -> str:
        """Why the attack counts as blind; "" where it is not."""
        if not self.took:
            return f"none of {self.wanted} canaries could be taught to SOURCE"
        for units, when in ((self.before, "before the edit"), (self.weakly_edited, "after a weak edit")):
            if self.found(units) < FOUND_SHARE * self.took:
                return f"finds {self.found(units)} of {self.took} canaries {when}"
        return ""
