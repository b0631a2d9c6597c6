"""The proof: is the difference of two checkpoints exactly a plan, in every copy of the denoiser?

Each listed row must be zero bytes in B, in every copy; no other row, tensor or file may differ. Files that
`patch` leaves out of its output by rule may be missing in B; the manifest may be added. Everything else is a
violation, and so is whatever could not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.checkpoint.comparison.pairing import WeightSet
from surgery.checkpoint.comparison.tensors import TensorDifference
from surgery.checkpoint.edit.side_files import may_be_kept
from surgery.checkpoint.names.files import MANIFEST_NAME, safetensors_name
from surgery.checkpoint.names.value_layers import value_like, value_name
from surgery.checkpoint.survey.roles import CONVERT, LEAVE_OUT, OTHER
from surgery.checkpoint.survey.survey import Checkpoint
from surgery.neurons import NeuronSet

if TYPE_CHECKING:
    from surgery.checkpoint.diff import Difference, SetDifference


def violations(
    difference: Difference,
    neurons: NeuronSet,
    pairs: Sequence[tuple[WeightSet, WeightSet]],
    only_a: Sequence[WeightSet],
    only_b: Sequence[WeightSet],
    one: Checkpoint,
    other: Checkpoint,
) -> list[str]:
    """Everything in a difference that is not the plan, one sentence each.

    Args:
        difference: of the checkpoints `one` (the source) and `other` (the patched one).
        neurons: the plan.
        pairs: the weight sets that were compared.
        only_a, only_b: the weight sets that were not.
    """
    found: list[str] = []
    denoisers = 0
    for (_, second), each in zip(pairs, difference.sets, strict=True):
        is_denoiser = any(value_name(name) for name in second.tensors)
        denoisers += is_denoiser
        found += _violations_of_set(each, second, neurons if is_denoiser else NeuronSet())
    if not denoisers:
        found.append("no copy of the denoiser could be compared")
    carried = {file.path for file in one.files if file.action != LEAVE_OUT}
    found += [f"B lacks {each.label}" for each in only_a if carried & set(each.files)]
    found += [f"B adds {each.label}" for each in only_b]
    for file in other.files:
        if file.action == LEAVE_OUT and not (file.role == OTHER and may_be_kept(file)):
            found.append(f"B holds {file.path}, which could not be compared ({file.reason})")
    found += _violations_of_files(difference, one)
    return list(dict.fromkeys(found))


def _violations_of_set(each: SetDifference, second: WeightSet, neurons: NeuronSet) -> list[str]:
    label = each.other_label
    found = [f"{label}: {name} was added" for name in each.added]
    found += [f"{label}: {name} was removed" for name in each.removed]
    for changed in each.changed:
        name = value_name(changed.name)
        found += _violations_of_tensor(label, changed, neurons.get(name.layer, ()) if name else ())
    for layer, rows in neurons.items():
        named = {key: value_name(key) for key in second.tensors if value_like(key)}
        keys = [key for key, found_name in named.items() if found_name and found_name.layer == layer]
        if not keys:
            found.append(f"{label}: has no value layer {layer}")
        for key in keys:
            weights, tensor = second.tensors[key]
            for row in rows:
                if not tensor.shape or row >= tensor.shape[0]:
                    found.append(f"{label}: {key} has no row {row}")
                elif any(weights.read(*tensor.row_range(row))):
                    found.append(f"{label}: row {row} of {key} is not zero")
    return found


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
        if each.kind == "removed":
            file = files[each.path]
            if file.action != LEAVE_OUT and file.action != CONVERT:
                found.append(f"B lacks {each.path}")
        elif each.kind == "added":
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
