"""Diff: which tensors and rows of two checkpoints differ, and is that exactly the plan?

1. Survey both; pair what is the same copy of the same component (`surgery.checkpoint.comparison.pairing`).
2. Compare tensor by tensor in file order, at reading speed where they are equal
   (`surgery.checkpoint.comparison.tensors`).
3. Compare all other files byte by byte; a file that one side lacks is listed, the manifest too.
4. With a plan: every listed row must be zero in B, and nothing else may differ
   (`surgery.checkpoint.comparison.violations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.comparison.pairing import WeightSet, pair_sets, weight_sets
from surgery.checkpoint.comparison.tensors import TensorDifference, compare_tensors, equal_tensors, same_bytes
from surgery.checkpoint.formats.weights import Progress, SafetensorsWeights
from surgery.checkpoint.inputs import load_neurons, open_pickle
from surgery.checkpoint.names.value_layers import DIFFUSERS
from surgery.checkpoint.survey.roles import CheckpointFile
from surgery.checkpoint.survey.source import locate
from surgery.checkpoint.survey.survey import SINGLE, Checkpoint, survey
from surgery.errors import SurgeryError, UsageError
from surgery.neurons import NeuronSet
from surgery.progress import byte_progress

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


def diff(
    a: str | Path,
    b: str | Path,
    *,
    plan: NeuronSet | Mapping[str, Sequence[int]] | str | Path | None = None,
    tolerance: float = 0.0,
    quiet: bool = True,
) -> Difference:
    """Compare two checkpoints: folders, single files, cached Hub ids, in any combination.

    Args:
        a: the first, with a plan the source.
        b: the second, with a plan the patched one.
        plan: neurons; the result then says whether the difference is exactly that these are zero in B.
        tolerance: relative difference of two values that counts as none; above 0 it also bridges dtypes (an
            fp16 twin against float32). 0 compares bytes.
        quiet: no progress bar.

    Returns:
        the difference; nothing is left unmentioned.

    Raises:
        UsageError: a side is no checkpoint, or the tolerance is negative or no number.
        SurgeryError: reading failed.
    """
    if not 0 <= tolerance < float("inf"):
        raise UsageError(
            "--tolerance", f"{tolerance} is not a number of at least 0", "give 0.001 for half precision"
        )
    neurons = None if plan is None else load_neurons(plan)[0]
    one, other = survey(locate(a), open_pickle), survey(locate(b), open_pickle)
    try:
        return _diff(one, other, neurons, tolerance, quiet)
    except OSError as error:
        raise SurgeryError(f"{a}, {b}", f"could not be compared ({error})", "run again") from error


def _diff(
    one: Checkpoint, other: Checkpoint, neurons: NeuronSet | None, tolerance: float, quiet: bool
) -> Difference:
    from surgery.checkpoint.comparison.violations import violations

    layouts_differ = (one.kind == SINGLE) != (other.kind == SINGLE)
    by_component = layouts_differ or _namings_differ(one, other)
    pairs, only_a, only_b = pair_sets(weight_sets(one, by_component), weight_sets(other, by_component))
    total = sum(file.bytes for file in one.files)
    with byte_progress(total, "diff", quiet) as advance:
        sets = tuple(_diff_sets(first, second, tolerance, by_component, advance) for first, second in pairs)
        files = () if layouts_differ else tuple(_diff_files(one, other, advance))
    difference = Difference(
        sets,
        tuple(each.label for each in only_a),
        tuple(each.label for each in only_b),
        files,
        layouts_differ,
    )
    if neurons is None:
        return difference
    broken = violations(difference, neurons, pairs, only_a, only_b, one, other)
    return Difference(
        difference.sets, difference.only_a, difference.only_b, files, layouts_differ, tuple(broken)
    )


def _namings_differ(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether one single file uses diffusers names and the other does not."""
    if one.kind != SINGLE or other.kind != SINGLE:
        return False
    uses = [{copy.naming == DIFFUSERS for copy in checkpoint.copies} for checkpoint in (one, other)]
    return all(uses) and uses[0] != uses[1]


def _diff_sets(
    first: WeightSet, second: WeightSet, tolerance: float, across_layouts: bool, advance: Progress
) -> SetDifference:
    changed = []
    shared = [name for name in first.tensors if name in second.tensors]
    for name in shared:
        (weights_a, one), (weights_b, other) = first.tensors[name], second.tensors[name]
        if equal_tensors(weights_a, one, weights_b, other, advance):
            continue
        found = compare_tensors(
            weights_a, one, weights_b, other, tolerance=tolerance, name=name, across_layouts=across_layouts
        )
        if found is not None:
            changed.append(found)
    return SetDifference(
        first.label,
        second.label,
        tuple(sorted(second.tensors.keys() - first.tensors.keys())),
        tuple(sorted(first.tensors.keys() - second.tensors.keys())),
        tuple(changed),
        len(shared),
    )


def _diff_files(one: Checkpoint, other: Checkpoint, advance: Progress) -> list[FileDifference]:
    if one.kind == SINGLE and other.kind == SINGLE:
        (file,), (counterpart,) = one.files, other.files
        note = _header_difference(file, counterpart)
        return [FileDifference(file.path, CHANGED, note)] if note else []
    files_a = {file.path: file for file in one.files}
    files_b = {file.path: file for file in other.files}
    found = []
    for path in sorted(files_a.keys() | files_b.keys()):
        a, b = files_a.get(path), files_b.get(path)
        if b is None:
            assert a is not None
            found.append(FileDifference(path, REMOVED, a.reason or a.role))
        elif a is None:
            found.append(FileDifference(path, ADDED, b.reason or b.role))
        elif a.weights is not None and b.weights is not None:
            if note := _header_difference(a, b):
                found.append(FileDifference(path, CHANGED, note))
        elif a.weights is None and b.weights is None:
            if path.endswith("/"):
                found.append(FileDifference(path, CHANGED, "a folder that was not looked into"))
            elif a.location.is_file() and b.location.is_file():
                if not same_bytes(a.location, b.location, advance):
                    found.append(FileDifference(path, CHANGED, a.role))
            else:
                found.append(FileDifference(path, CHANGED, "not a regular file"))
    return found


def _header_difference(a: CheckpointFile, b: CheckpointFile) -> str:
    """What two weight files' headers say differently beyond their tensors; "" for none, and for a pickle."""
    if not isinstance(a.weights, SafetensorsWeights) or not isinstance(b.weights, SafetensorsWeights):
        return ""
    one, other = a.weights.header, b.weights.header
    if one.metadata != other.metadata:
        return "its metadata differs"
    if list(one.tensors) != list(other.tensors):
        return "its tensors stand in another order" if one.tensors.keys() == other.tensors.keys() else ""
    spans = [[(each.begin, each.end) for each in header.tensors.values()] for header in (one, other)]
    return "its header is written differently" if spans[0] != spans[1] else ""
