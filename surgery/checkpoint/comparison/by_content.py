"""The proof across layouts, namings and number types: tensors are paired by meaning, nothing is left over.

Each edited row must hold in B what the plan says, in every copy; no other row or tensor may differ, and
nothing may be in B that has no counterpart in A, be it a tensor, a file or a word in a header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set

from surgery.checkpoint.comparison.difference import ADDED, CHANGED, Difference, SetDifference
from surgery.checkpoint.comparison.in_place import linked_files
from surgery.checkpoint.comparison.manifest_claims import manifest_violations
from surgery.checkpoint.comparison.pairing import Pairing, Place, WeightSet
from surgery.checkpoint.comparison.tensors import TensorDifference, distant_rows
from surgery.checkpoint.edit.edits import Edit, FileEdits
from surgery.checkpoint.edit.plan import Plan
from surgery.checkpoint.formats.safetensors_file import LENGTH_BYTES
from surgery.checkpoint.names.files import MANIFEST_NAME, safetensors_name
from surgery.checkpoint.names.value_layers import value_name
from surgery.checkpoint.survey.roles import CONVERT, LEAVE_OUT, CheckpointFile
from surgery.checkpoint.survey.survey import SINGLE
from surgery.neurons import shortened_rows

# (weights of A, tensor name in them) -> its edits and all edits of its file
PlannedEdits = Mapping[tuple[int, str], tuple[Sequence[Edit], FileEdits]]
_ENTRY_FIELDS = {"dtype", "shape", "data_offsets"}


def content_violations(
    difference: Difference, pairing: Pairing, plan: Plan, tolerance: float
) -> Iterator[str]:
    """Everything in B that is not what the plan makes of A, one sentence each.

    Args:
        difference: what the comparison found.
        pairing: what it was found in.
        plan: what `patch` would do with A.
        tolerance: as for `compare_tensors`.
    """
    planned: dict[tuple[int, str], tuple[list[Edit], FileEdits]] = {}
    for task in plan.tasks:
        for edit in task.edits:
            place = (id(task.file.weights), edit.tensor.name)
            planned.setdefault(place, ([], task.edits))[0].append(edit)
    denoisers = 0
    for (first, second), each in zip(pairing.pairs, difference.sets, strict=True):
        denoisers += any(value_name(name) for name in second.tensors)
        yield from _set_violations(each, first, second, planned, tolerance)
    if not denoisers:
        yield "no copy of the denoiser could be compared"
    carried = {task.file.path for task in plan.tasks}
    yield from (f"B lacks {each.label}" for each in pairing.only_a if carried & set(each.files))
    yield from (f"B adds {each.label}" for each in pairing.only_b)
    metadata = [task.file.weights.header.metadata for task in plan.tasks if task.file.weights is not None]
    for file in pairing.other.files:
        yield from _header_violations(file, metadata)
    yield from _file_violations(difference, pairing, plan)


def _set_violations(
    each: SetDifference, first: WeightSet, second: WeightSet, planned: PlannedEdits, tolerance: float
) -> Iterator[str]:
    label = each.other_label
    yield from (f"{label}: {name} was added" for name in each.added)
    yield from (f"{label}: {name} was removed" for name in each.removed)
    edits = {
        name: planned[id(weights), tensor.name]
        for name, (weights, tensor) in first.tensors.items()
        if (id(weights), tensor.name) in planned
    }
    for changed in each.changed:
        own = edits[changed.name][0] if changed.name in edits else ()
        yield from _tensor_violations(label, changed, {row for edit in own for row in edit.rows})
    for name, edit, all_edits in ((name, edit, all_) for name, (own, all_) in edits.items() for edit in own):
        if name in second.tensors:
            for row in _wrong_rows(edit, all_edits, first.tensors[name], second.tensors[name], tolerance):
                yield f"{label}: row {row} of {name} {edit.content.failure}"


def _wrong_rows(
    edit: Edit, edits: FileEdits, source: Place, patched: Place, tolerance: float
) -> Iterator[int]:
    """The edited rows that do not hold in B what the plan says, and those that B lacks."""
    (weights, tensor), (weights_b, tensor_b) = source, patched
    rows_b = tensor_b.shape[0] if tensor_b.shape else 0
    for row in edit.rows:
        if row >= rows_b:
            yield row
            continue
        begin, end = tensor.row_range(row)
        expected = edits.expected(weights.read(begin, end), begin)
        data = weights_b.read(*tensor_b.row_range(row))
        if not any(expected):
            is_right = not any(data)  # of any dtype: -0.0 is not zero
        elif tensor.dtype == tensor_b.dtype and tolerance == 0:
            is_right = data == expected
        else:
            is_right = not distant_rows(expected, data, (tensor.dtype, tensor_b.dtype), 1, tolerance)
        if not is_right:
            yield row


def _tensor_violations(label: str, tensor: TensorDifference, planned: Set[int]) -> Iterator[str]:
    if tensor.rows is None:
        yield f"{label}: {tensor.name} has another shape or dtype"
        return
    unplanned = sorted(set(tensor.rows) - planned)
    if unplanned or not tensor.rows:
        rows = shortened_rows(unplanned)
        yield f"{label}: {tensor.name} differs in {len(unplanned)} unplanned rows {rows}"


def _header_violations(file: CheckpointFile, metadata: list[dict[str, str] | None]) -> Iterator[str]:
    """What a header in B says beside its tensors that no header of A does."""
    if file.weights is None:
        return
    header = file.weights.header
    if header.metadata not in (None, {"format": "pt"}, *metadata):
        yield f"{file.path}: its metadata is not the source's"
    entries = json.loads(file.weights.read(LENGTH_BYTES, header.data_start))
    for name, entry in entries.items():
        if name != "__metadata__" and (not isinstance(entry, dict) or entry.keys() != _ENTRY_FIELDS):
            yield f"{file.path}: the header's entry of {name} holds more than dtype, shape and place"


def _file_violations(difference: Difference, pairing: Pairing, plan: Plan) -> Iterator[str]:
    """What B holds besides weights."""
    if pairing.other.kind == SINGLE:
        return
    carried = {task.file.output for task in plan.tasks}
    yield from linked_files(pairing.other)
    for file in pairing.other.files:
        if file.path == MANIFEST_NAME:
            yield from manifest_violations(file.location, plan)
        elif file.action == LEAVE_OUT and file.path not in carried:
            yield f"B holds {file.path}, which could not be compared ({file.reason})"
        elif pairing.layouts_differ and file.weights is None:
            yield f"B holds {file.path}, which has no counterpart in A"
    converted = {file.output for file in pairing.one.files if file.action == CONVERT}
    weights_b = {file.path for file in pairing.other.files if file.weights is not None}
    for each in difference.files:
        if each.path == MANIFEST_NAME or each.path in weights_b:
            continue  # claims are checked above, weights by their tensors and headers
        if each.kind == CHANGED:
            yield f"{each.path} differs"
        elif each.kind == ADDED:
            if each.path not in converted and safetensors_name(each.path) not in converted:
                yield f"B adds {each.path}"
        elif each.path in carried and not _is_weights(pairing, each.path):
            yield f"B lacks {each.path}"


def _is_weights(pairing: Pairing, path: str) -> bool:
    """Whether a file of A holds weights: these are paired as sets, whatever files they lie in."""
    return pairing.one.file(path).weights is not None
