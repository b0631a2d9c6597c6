"""The gate behind `patch`: read everything that was written again, before it is published.

1. The output holds the planned files and no other.
2. Every weight file has exactly the header it should have.
3. Every value layer, and whatever else was edited, is compared with what it should hold, byte by byte.
4. A tensor that looks like a value layer and was not compared in step 3 fails the gate.

All other bytes are the kernel's copy and are not read again here (that would double the time);
`surgery diff SOURCE OUT --plan neurons.json` compares every byte.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from surgery.checkpoint.edit.edits import ZEROS
from surgery.checkpoint.edit.plan import FileTask, Plan
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.same_bytes import equal_ranges
from surgery.checkpoint.formats.weights import SafetensorsWeights, Weights
from surgery.checkpoint.names.value_layers import value_like
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.roles import CONVERT, INDEX
from surgery.checkpoint.survey.shards import converted_index
from surgery.errors import GateError, UsageError

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
    written = set(_files_below(root))
    if unexpected := written ^ expected:
        raise GateError(min(unexpected), "the output does not hold exactly the planned files", _WAY_OUT)
    counts = {
        "files": len(expected),
        "weight_files": 0,
        "value_layers": 0,
        "rows_compared": 0,
        "rows_zero": 0,
    }
    for task in plan.tasks:
        path = root / task.file.output
        if task.file.weights is None:
            _verify_side_file(path, task)
            continue
        counts["weight_files"] += 1
        verified = _verify_weights(path, task, plan.copies, counts)
        for key in task.file.weights.header.tensors:
            if value_like(key) and key not in verified:
                raise GateError(
                    task.file.output, f"{key} looks like a value layer and was not verified", _WAY_OUT
                )
    return counts


def _verify_weights(
    path: Path, task: FileTask, copies: Sequence[DenoiserCopy], counts: dict[str, int]
) -> set[str]:
    """Compare one weight file's header and value layers; returns the names of the tensors compared."""
    source = task.file.weights
    assert source is not None
    try:
        written = SafetensorsWeights(path, task.file.output)
    except UsageError as error:
        raise GateError(task.file.output, f"the written file {error.cause}", _WAY_OUT) from None
    if written.header != source.header:
        raise GateError(task.file.output, "its header is not the source's", _WAY_OUT)
    zeroed = {edit.tensor.name: len(edit.rows) for edit in task.edits if edit.content is ZEROS}
    verified = set()
    for copy in copies:
        for layer in copy.layers.values():
            for file, tensor in layer.tensors():
                if file != task.file.path:
                    continue
                _compare(written, task, tensor)
                verified.add(tensor.name)
                if tensor is layer.weight:
                    counts["value_layers"] += 1
                    counts["rows_compared"] += layer.rows
                    counts["rows_zero"] += zeroed.get(tensor.name, 0)
    for edit in task.edits:
        if edit.tensor.name not in verified:
            _compare(written, task, edit.tensor)
            verified.add(edit.tensor.name)
    return verified


def _compare(written: Weights, task: FileTask, tensor: Tensor) -> None:
    """Every byte of one tensor: the edits' where they say so, the source's elsewhere."""
    source, shown = task.file.weights, task.file.output
    assert source is not None
    position = tensor.begin
    for start, end in [*task.edits.within(tensor), (tensor.end, tensor.end)]:
        start, end = max(start, tensor.begin), min(end, tensor.end)
        if not equal_ranges(written, source, position, start):
            raise GateError(shown, f"rows of {tensor.name} outside the plan differ from the source", _WAY_OUT)
        for begin in range(start, end, _STEP):
            stop = min(begin + _STEP, end)
            if written.read(begin, stop) != task.edits.expected(source.read(begin, stop), begin):
                failure = next(edit.content.failure for edit in task.edits if edit.tensor.name == tensor.name)
                raise GateError(shown, f"a planned row of {tensor.name} {failure}", _WAY_OUT)
        position = end


def _verify_side_file(path: Path, task: FileTask) -> None:
    is_rewritten = task.file.role == INDEX and task.file.action == CONVERT
    wanted = converted_index(task.file) if is_rewritten else task.file.location.read_bytes()
    if path.read_bytes() != wanted:
        raise GateError(task.file.output, "is not the source's file", _WAY_OUT)


def _files_below(root: Path) -> list[str]:
    return [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
    ]
