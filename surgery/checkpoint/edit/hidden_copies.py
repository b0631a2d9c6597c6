"""Look for the edited rows under other names and in other shapes, whatever those are.

Names can be unknown to us (a fused projection, a renamed backup, an EMA in a component's file), numbers
cannot. Of every edit, two rows are sought in every tensor of the output that is no value layer of a copy that
the plan knows:

1. **as rows**: the tensor's numbers are cut into pieces as long as a row, from its start and at both ends of
   its last dimension: that finds copies that are stacked, flattened, joined with other tensors, put in
   another order, or under any name;
2. **as columns** of a matrix as high as a row is long, or higher: that finds transposed copies.

A piece is the row when both point the same way (cosine of at least 0.999), which rounding to half precision
and scaling leave as it is. The first 16 numbers decide whether the rest is looked at.

Not found: rows cut apart or shifted by odd amounts, and re-encoded ones (quantized, compressed).
"""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from surgery.checkpoint.edit.edits import ZEROS, Edit
from surgery.checkpoint.edit.plan import Plan
from surgery.checkpoint.formats.safetensors_file import DTYPE_BITS, Tensor
from surgery.checkpoint.formats.weights import Weights
from surgery.checkpoint.names.value_layers import value_like
from surgery.errors import UsageError

if TYPE_CHECKING:
    import numpy

SAMPLED_ROWS = 2  # of an edit: a copy of a layer copies all of its rows
GLANCE = 16  # numbers compared before a whole row is read
CLOSENESS = 0.999  # cosine: bfloat16 rounding leaves 0.99999, the rows of different neurons are far below
_BLOCK = 4 * 1024 * 1024  # bytes read at once


@dataclass(frozen=True)
class _Sought:
    """Rows of one length: names for messages, directions [count, width], of their first numbers too."""

    names: list[str]
    rows: numpy.ndarray
    glances: numpy.ndarray


def check_no_hidden_copy(plan: Plan, stop: threading.Event | None = None) -> None:
    """Refuse when a file to be written holds an edited row in a tensor that the plan does not edit.

    Args:
        plan: what is to be written.
        stop: set when the answer is no longer wanted.

    Raises:
        UsageError: naming the tensor and the layer it repeats.
    """
    opened = {task.file.path: task.file.weights for task in plan.tasks if task.file.weights is not None}
    edits = [edit for task in plan.tasks for edit in task.edits]
    # Value layers of other places are the model itself, and the plan's copies know them: neurons of one
    # memory may well point the same way.
    known = {(edit.file, edit.tensor.name) for edit in edits}
    known |= {(task.file.path, tensor.name) for task in plan.tasks for tensor in task.value_tensors}
    for width, sought in _sought_rows(opened, _telling(edits)).items():
        for path, weights in opened.items():
            for tensor in _others(path, weights, known):
                if stop is not None and stop.is_set():
                    return
                for found in _found_in(weights, tensor, width, sought):
                    raise UsageError(
                        path,
                        f"{tensor.name} holds a second copy of {found}",
                        "remove it (unfuse projections, drop backups), and save the model again",
                    )


def _telling(edits: Sequence[Edit]) -> Sequence[Edit]:
    """The edits whose rows are sought: of trained tensors those of value layers, where there are any.

    A second copy of a denoiser has its value layers too, and they alone are few enough to look for each.
    """
    chosen = [edit for edit in edits if edit.content is ZEROS or value_like(edit.tensor.name)]
    return chosen or edits


def _sought_rows(opened: dict[str, Weights], edits: Sequence[Edit]) -> dict[int, _Sought]:
    """Length of a row -> the rows of that length to look for."""
    import numpy

    by_width: dict[int, tuple[list[str], list[numpy.ndarray]]] = {}
    for edit in edits:
        width = prod(edit.tensor.shape[1:])
        if len(edit.tensor.shape) < 2 or width < 2:
            continue
        taken = 0
        for row in sorted(edit.rows, key=lambda row: row not in (edit.rows[0], edit.rows[-1])):
            numbers = _numbers(opened[edit.file].read(*edit.tensor.row_range(row)), edit.tensor.dtype)
            if numbers is None or taken == SAMPLED_ROWS:
                break
            # a row of zeros, or of one number, points nowhere in particular
            if numbers[:GLANCE].std() > 1e-3 * numpy.abs(numbers).max() > 0:
                names, rows = by_width.setdefault(width, ([], []))
                names.append(f"row {row} of {edit.layer}")
                rows.append(numbers)
                taken += 1
    return {
        width: _Sought(names, _directions(numpy.stack(rows)), _directions(numpy.stack(rows)[:, :GLANCE]))
        for width, (names, rows) in by_width.items()
    }


def _others(path: str, weights: Weights, known: Container[tuple[str, str]]) -> Iterator[Tensor]:
    """The tensors that are not accounted for, of whole bytes a number."""
    for tensor in weights.header.tensors.values():
        if (path, tensor.name) not in known and DTYPE_BITS[tensor.dtype] % 8 == 0 and tensor.shape:
            yield tensor


def _found_in(weights: Weights, tensor: Tensor, width: int, sought: _Sought) -> Iterator[str]:
    count, last = prod(tensor.shape), tensor.shape[-1]
    if count < width:
        return
    yield from _as_rows(weights, tensor, width, width, [0], sought)
    if last > width and last % width:  # else both ends of the last dimension are among the pieces above
        yield from _as_rows(weights, tensor, width, last, [0, last - width], sought)
    height = tensor.shape[-2] if len(tensor.shape) > 1 else 0
    if height >= width:
        for matrix in range(count // (height * last)):
            for top in {0, height - width}:
                yield from _as_columns(weights, tensor, matrix * height + top, width, sought)


def _as_rows(
    weights: Weights, tensor: Tensor, width: int, stride: int, shifts: list[int], sought: _Sought
) -> Iterator[str]:
    """The sought rows among the pieces that begin at each shift, a stride later, ..., counted in numbers."""
    import numpy

    element = DTYPE_BITS[tensor.dtype] // 8
    glance, pieces = min(GLANCE, width), prod(tensor.shape) // stride
    at_once = max(1, _BLOCK // (stride * element))
    for first in range(0, pieces, at_once):
        begin = tensor.begin + first * stride * element
        end = min(begin + at_once * stride * element, tensor.begin + pieces * stride * element)
        table = numpy.frombuffer(weights.read(begin, end), f"V{element}").reshape(-1, stride)
        for shift in shifts:
            glances = _numbers(table[:, shift : shift + glance].tobytes(), tensor.dtype)
            if glances is None:
                return
            for piece, name in _close_pairs(glances.reshape(-1, glance), sought.glances):
                whole = _numbers(table[piece, shift : shift + width].tobytes(), tensor.dtype)
                assert whole is not None
                if len(whole) == width and _cosine(whole, sought.rows[name]) >= CLOSENESS:
                    yield sought.names[name]


def _as_columns(weights: Weights, tensor: Tensor, top: int, width: int, sought: _Sought) -> Iterator[str]:
    """The sought rows among the columns of the `width` lines of numbers that begin with line `top`."""
    import numpy

    element, last = DTYPE_BITS[tensor.dtype] // 8, tensor.shape[-1]
    glance, begin = min(GLANCE, width), tensor.begin + top * last * element
    seen = _numbers(weights.read(begin, begin + glance * last * element), tensor.dtype)
    if seen is None:
        return
    for column, name in _close_pairs(seen.reshape(glance, last).T, sought.glances):
        lines = numpy.frombuffer(weights.read(begin, begin + width * last * element), f"V{element}")
        whole = _numbers(lines.reshape(width, last)[:, column].tobytes(), tensor.dtype)
        assert whole is not None
        if _cosine(whole, sought.rows[name]) >= CLOSENESS:
            yield sought.names[name]


def _close_pairs(pieces: numpy.ndarray, sought: numpy.ndarray) -> list[tuple[int, int]]:
    """The (piece, sought row) pairs whose first numbers point the same way."""
    import numpy

    with numpy.errstate(over="ignore", invalid="ignore"):
        alike = numpy.abs(_directions(pieces) @ sought.T) >= CLOSENESS
    return [(int(piece), int(row)) for piece, row in numpy.argwhere(alike)]


def _directions(rows: numpy.ndarray) -> numpy.ndarray:
    """Rows [count, width] scaled to length 1; rows without a length become zeros."""
    import numpy

    with numpy.errstate(over="ignore", invalid="ignore"):
        lengths = numpy.linalg.norm(rows, axis=1, keepdims=True)
        found = rows / numpy.where(lengths > 0, lengths, 1)
    return numpy.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


def _cosine(first: numpy.ndarray, direction: numpy.ndarray) -> float:
    return float(abs(_directions(first[None])[0] @ direction))


def _numbers(data: bytes, dtype: str) -> numpy.ndarray | None:
    """The numbers as float32; None where the dtype is not decoded."""
    import numpy

    from surgery.checkpoint.formats.decode import decode

    numbers = decode(data, dtype)
    return None if numbers is None else numbers.astype(numpy.float32, copy=False)
