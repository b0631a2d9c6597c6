"""The proof: is the difference of two checkpoints exactly a plan, in every copy of the denoiser?

Each edited row must hold in B what the plan says, in every copy; no other row, tensor or file may differ.
Files that `patch` leaves out of its output by rule may be missing in B; the manifest may be added. Everything
else is a violation, and so is whatever could not be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery.checkpoint.comparison.difference import ADDED, REMOVED, Difference, SetDifference
from surgery.checkpoint.comparison.pairing import Pairing, Place, WeightSet
from surgery.checkpoint.comparison.tensors import TensorDifference, distant_rows
from surgery.checkpoint.edit.edits import Change, Edit, FileEdits, edits_by_file
from surgery.checkpoint.edit.side_files import may_be_kept
from surgery.checkpoint.names.files import MANIFEST_NAME, safetensors_name
from surgery.checkpoint.names.value_layers import value_like, value_name
from surgery.checkpoint.survey.roles import CONVERT, LEAVE_OUT, OTHER
from surgery.checkpoint.survey.survey import Checkpoint
from surgery.neurons import NeuronSet

# (weights of A, tensor name in them) -> the edit and all edits of its file
PlannedEdits = Mapping[tuple[int, str], tuple[Edit, FileEdits]]


def violations(
    difference: Difference,
    pairing: Pairing,
    neurons: NeuronSet,
    changes: Sequence[Change],
    tolerance: float,
) -> list[str]:
    """Everything in a difference that is not the plan, one sentence each.

    Args:
        difference: what was found.
        pairing: what it was found in: A is the source, B the patched checkpoint.
        neurons: the rows that every copy must have.
        changes: the plan, the zeroed neurons among it.
        tolerance: as for `compare_tensors`.
    """
    found: list[str] = []
    planned = _planned_edits(pairing.one, changes)
    denoisers = 0
    for (first, second), each in zip(pairing.pairs, difference.sets, strict=True):
        if any(value_name(name) for name in second.tensors):
            denoisers += 1
            found += _missing_rows(each.other_label, second, neurons)
        found += _violations_of_set(each, first, second, planned, tolerance)
    if not denoisers:
        found.append("no copy of the denoiser could be compared")
    carried = {file.path for file in pairing.one.files if file.action != LEAVE_OUT}
    found += [f"B lacks {each.label}" for each in pairing.only_a if carried & set(each.files)]
    found += [f"B adds {each.label}" for each in pairing.only_b]
    for file in pairing.other.files:
        if file.action == LEAVE_OUT and not (file.role == OTHER and may_be_kept(file)):
            found.append(f"B holds {file.path}, which could not be compared ({file.reason})")
    found += _violations_of_files(difference, pairing.one)
    return list(dict.fromkeys(found))


def _planned_edits(source: Checkpoint, changes: Sequence[Change]) -> PlannedEdits:
    planned = {}
    for path, edits in edits_by_file(source.copies, changes).items():
        for edit in edits:
            planned[id(source.file(path).weights), edit.tensor.name] = edit, edits
    return planned


def _missing_rows(label: str, second: WeightSet, neurons: NeuronSet) -> list[str]:
    """The planned neurons that a copy in B does not even have."""
    found = []
    named = {key: name for key in second.tensors if value_like(key) and (name := value_name(key))}
    for layer, rows in neurons.items():
        keys = [key for key, name in named.items() if name.layer == layer]
        if not any(named[key].kind == "weight" for key in keys):
            found.append(f"{label}: has no value layer {layer}")
        for key in keys:
            shape = second.tensors[key][1].shape
            found += [f"{label}: {key} has no row {row}" for row in rows if not shape or row >= shape[0]]
    return found


def _violations_of_set(
    each: SetDifference, first: WeightSet, second: WeightSet, planned: PlannedEdits, tolerance: float
) -> list[str]:
    label = each.other_label
    found = [f"{label}: {name} was added" for name in each.added]
    found += [f"{label}: {name} was removed" for name in each.removed]
    edits = {
        name: planned[id(weights), tensor.name]
        for name, (weights, tensor) in first.tensors.items()
        if (id(weights), tensor.name) in planned
    }
    for changed in each.changed:
        rows = edits[changed.name][0].rows if changed.name in edits else ()
        found += _violations_of_tensor(label, changed, rows)
    for name, (edit, all_edits) in edits.items():
        if name in second.tensors:
            place = second.tensors[name]
            wrong = _wrong_rows(edit, all_edits, first.tensors[name], place, tolerance)
            found += [f"{label}: row {row} of {name} {edit.content.failure}" for row in wrong]
    return found


def _wrong_rows(edit: Edit, edits: FileEdits, source: Place, patched: Place, tolerance: float) -> list[int]:
    """The edited rows that do not hold in B what the plan says; rows that B lacks are reported elsewhere."""
    (weights, tensor), (weights_b, tensor_b) = source, patched
    rows_b = tensor_b.shape[0] if tensor_b.shape else 0
    wrong = []
    for row in edit.rows:
        if row >= rows_b:
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
            wrong.append(row)
    return wrong


def _violations_of_tensor(label: str, tensor: TensorDifference, planned: tuple[int, ...]) -> list[str]:
    if tensor.rows is None:
        return [f"{label}: {tensor.name} has another shape or dtype"]
    unplanned = sorted(set(tensor.rows) - set(planned))
    if unplanned or not tensor.rows:
        return [f"{label}: {tensor.name} differs in {len(unplanned)} unplanned rows {shortened(unplanned)}"]
    return []


def _violations_of_files(difference: Difference, one: Checkpoint) -> list[str]:
    files = {file.path: file for file in one.files}
    converted = {file.output for file in one.files if file.action == CONVERT}
    found = []
    for each in difference.files:
        if each.path == MANIFEST_NAME:
            continue
        if each.kind == REMOVED:
            file = files[each.path]
            if file.action != LEAVE_OUT and file.action != CONVERT:
                found.append(f"B lacks {each.path}")
        elif each.kind == ADDED:
            if each.path not in converted and safetensors_name(each.path) not in converted:
                found.append(f"B adds {each.path}")
        else:
            found.append(f"{each.path} differs")
    return found


def shortened(rows: Sequence[int], limit: int = 8) -> str:
    """Row numbers for people: `3, 7-9, 12 and 40 more`."""
    spans: list[list[int]] = []
    for row in rows:
        if spans and spans[-1][1] == row - 1:
            spans[-1][1] = row
        else:
            spans.append([row, row])
    shown = ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in spans[:limit])
    rest = sum(end - start + 1 for start, end in spans[limit:])
    return f"{shown} and {rest} more" if rest else shown
