"""Is what was written what was planned? Asked by `patch` before it publishes, by `diff --plan` afterwards.

1. The output holds the planned files and no other.
2. Every file without weights holds the planned bytes.
3. Every weight file has, byte for byte, the header it should have: the same tensors at the same places, the
   same metadata, nothing beside them. What a loader can read there is therefore what the source has.
4. Whatever a loader could read there as a value layer, under any name, belongs to a copy of the denoiser that
   the plan knows.
5. Every tensor is compared with what it should hold (`FileEdits.expected`): edited rows with the new content,
   all others with the source.

`patch` compares the value layers and whatever else was edited; all other bytes are the kernel's copy, and
reading them again would double the time. `diff --plan` compares every byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from surgery.checkpoint.edit.edits import ZEROS
from surgery.checkpoint.edit.plan import FileTask, Plan
from surgery.checkpoint.edit.writing import side_content
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.same_bytes import equal_ranges
from surgery.checkpoint.formats.weights import SafetensorsWeights, Weights
from surgery.checkpoint.names.value_layers import value_like
from surgery.errors import GateError, UsageError
from surgery.neurons import shortened_rows

_STEP = 1024 * 1024
_WAY_OUT = "nothing was published; report this as a defect of surgery"


def verify_output(root: Path, plan: Plan) -> dict[str, int]:
    """Check the written output against the source and the plan.

    Args:
        root: the folder that the planned output paths are relative to.
        plan: what should have been written.

    Returns:
        counts: `files`, `weight_files`, `value_layers`, `rows_compared`, `rows_zero`.

    Raises:
        GateError: anything is not as planned.
    """
    expected = {task.file.output for task in plan.tasks}
    if unexpected := set(_files_below(root)) ^ expected:
        raise GateError(min(unexpected), "the output does not hold exactly the planned files", _WAY_OUT)
    for sentence in overlooked_value_layers(plan):
        raise GateError("the plan", sentence, _WAY_OUT)
    for task in plan.tasks:
        for deviation in _deviations(root / task.file.output, task):
            raise GateError(task.file.output, deviation, _WAY_OUT)
    return planned_counts(plan)


def overlooked_value_layers(plan: Plan) -> Iterator[str]:
    """Every tensor to be written that a loader could take for a value layer, and that no copy has."""
    known = {
        (path, tensor.name)
        for copy in plan.copies
        for layer in copy.layers.values()
        for path, tensor in layer.tensors()
    }
    for task in plan.tasks:
        for key in task.file.weights.header.tensors if task.file.weights is not None else ():
            if value_like(key) and (task.file.path, key) not in known:
                where = f"{key} of {task.file.path}"
                yield f"{where} looks like a value layer, and no copy of the denoiser has it"


def planned_counts(plan: Plan) -> dict[str, int]:
    """What the verification of a plan counts, for the manifest."""
    weight_files = [task for task in plan.tasks if task.file.weights is not None]
    paths = {task.file.path for task in weight_files}
    layers = [layer for copy in plan.copies for layer in copy.layers.values() if layer.file in paths]
    weights = {(layer.file, layer.weight.name) for layer in layers}
    zeroed = [edit for task in weight_files for edit in task.edits if edit.content is ZEROS]
    return {
        "files": len(plan.tasks),
        "weight_files": len(weight_files),
        "value_layers": len(layers),
        "rows_compared": sum(layer.rows for layer in layers),
        "rows_zero": sum(len(edit.rows) for edit in zeroed if (edit.file, edit.tensor.name) in weights),
    }


def side_deviation(path: Path, task: FileTask) -> str | None:
    """What is wrong with a written file without weights, or None."""
    wanted = side_content(task)
    if path.stat().st_size != len(wanted) or path.read_bytes() != wanted:
        return "is not the source's file"
    return None


def weight_deviations(written: Weights, task: FileTask, is_wanted: Callable[[Tensor], bool]) -> Iterator[str]:
    """Everything in a written weight file that is not what the plan says.

    Args:
        written: the file.
        task: what should have been written.
        is_wanted: whether a tensor's bytes are to be compared.
    """
    source = task.file.weights
    assert source is not None
    start, start_written = source.header.data_start, written.header.data_start
    if start != start_written or source.read(0, start) != written.read(0, start_written):
        yield f"its header is not the source's ({_header_difference(source, written)})"
    for tensor in source.header.tensors.values():
        counterpart = written.header.tensors.get(tensor.name)
        if counterpart is None:
            yield f"{tensor.name} was removed"
        elif (counterpart.dtype, counterpart.shape) != (tensor.dtype, tensor.shape):
            yield f"{tensor.name} has another shape or dtype"
        elif is_wanted(tensor):
            yield from _tensor_deviations(written, counterpart, task, tensor)
    for name in written.header.tensors.keys() - source.header.tensors.keys():
        yield f"{name} was added"


def _deviations(path: Path, task: FileTask) -> Iterator[str]:
    if task.file.weights is None:
        if deviation := side_deviation(path, task):
            yield deviation
        return
    try:
        written = SafetensorsWeights(path, task.file.output)
    except UsageError as error:
        yield f"the written file {error.cause}"
        return
    known = {tensor.name for tensor in task.value_tensors} | {edit.tensor.name for edit in task.edits}
    yield from weight_deviations(written, task, lambda tensor: tensor.name in known)


def _tensor_deviations(
    written: Weights, counterpart: Tensor, task: FileTask, tensor: Tensor
) -> Iterator[str]:
    """One tensor of the source against its counterpart in the written file, as sentences about rows."""
    source = task.file.weights
    assert source is not None
    shift = counterpart.begin - tensor.begin
    unplanned: list[int] = []
    position = tensor.begin
    for start, end in [*task.edits.within(tensor), (tensor.end, tensor.end)]:
        if not equal_ranges(source, written, position, start, shift):
            unplanned += _differing_rows(written, shift, task, tensor, position, start)
            if not tensor.row_bytes:
                yield f"{tensor.name} differs from the source"
        for begin in range(start, end, _STEP):
            stop = min(begin + _STEP, end)
            if written.read(begin + shift, stop + shift) != task.edits.expected(
                source.read(begin, stop), begin
            ):
                for row in _differing_rows(written, shift, task, tensor, begin, stop):
                    yield f"row {row} of {tensor.name} {_failure(task, tensor, row)}"
        position = end
    if unplanned:
        rows = shortened_rows(sorted(set(unplanned)))
        yield f"{tensor.name} differs in {len(set(unplanned))} unplanned rows {rows}"


def _differing_rows(
    written: Weights, shift: int, task: FileTask, tensor: Tensor, begin: int, end: int
) -> list[int]:
    """The rows of a byte range of a tensor that do not hold what they should."""
    source, width = task.file.weights, tensor.row_bytes
    assert source is not None
    found = []
    first = (begin - tensor.begin) // width if width else 0
    for row in range(first, -((tensor.begin - end) // width) if width else 0):
        start, stop = tensor.row_range(row)
        start, stop = max(start, begin), min(stop, end)
        expected = task.edits.expected(source.read(start, stop), start)
        if written.read(start + shift, stop + shift) != expected:
            found.append(row)
    return found


def _failure(task: FileTask, tensor: Tensor, row: int) -> str:
    return next(
        edit.content.failure for edit in task.edits if edit.tensor.name == tensor.name and row in edit.rows
    )


def _header_difference(source: Weights, written: Weights) -> str:
    one, other = source.header, written.header
    if one.metadata != other.metadata:
        return "its metadata differs"
    if one.tensors.keys() != other.tensors.keys():
        return "other tensors"
    if list(one.tensors) != list(other.tensors):
        return "its tensors stand in another order"
    return "it is written differently"


def _files_below(root: Path) -> list[str]:
    return [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
    ]
