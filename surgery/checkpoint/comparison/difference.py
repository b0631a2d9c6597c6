"""What a comparison found: which files, weight sets and tensors differ."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.checkpoint.comparison.tensors import TensorDifference

ADDED, REMOVED, CHANGED = "added", "removed", "changed"


@dataclass(frozen=True, slots=True)
class FileDifference:
    """One file that differs as a file.

    Attributes:
        path: within its checkpoint.
        kind: `added` (only B has it), `removed` (only A has it) or `changed`.
        note: what is known about it: its role, or why `patch` leaves it out.
    """

    path: str
    kind: str
    note: str


@dataclass(frozen=True, slots=True)
class SetDifference:
    """Two weight sets that were compared.

    Attributes:
        label: how A calls it.
        other_label: how B calls it.
        added, removed: tensors that only B and only A has.
        changed: tensors that differ.
        compared: the number of tensors both have.
    """

    label: str
    other_label: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[TensorDifference, ...]
    compared: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The whole difference of two checkpoints.

    Attributes:
        sets: the compared weight sets.
        only_a, only_b: labels of weight sets that the other side lacks.
        files: files that differ as files; empty when the layouts differ, for then files have no counterpart.
        layouts_differ: whether a folder was compared with a single file.
        violations: with a plan: everything that is not as planned, one sentence each; None without a plan.
    """

    sets: tuple[SetDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    files: tuple[FileDifference, ...]
    layouts_differ: bool
    violations: tuple[str, ...] | None = None

    @property
    def identical(self) -> bool:
        """Whether nothing differs at all."""
        tensors = any(each.added or each.removed or each.changed for each in self.sets)
        return not (tensors or self.only_a or self.only_b or self.files)

    @property
    def as_planned(self) -> bool | None:
        """With a plan: whether the difference is exactly the plan. None without one."""
        return None if self.violations is None else not self.violations
