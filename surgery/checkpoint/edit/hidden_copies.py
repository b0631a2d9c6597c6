"""Look for the edited rows under other names, whatever those are.

Names can be unknown to us (a fused projection, a renamed backup, an EMA in a component's file), numbers
cannot: a tensor that is as wide as a value layer, as long or a multiple of it, and holds an edited row at
its place is a second copy. Half-precision copies count too: a row matches when the difference is below one
per cent of it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from surgery.checkpoint.edit.edits import Edit
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import Weights, read_row
from surgery.checkpoint.survey.roles import CheckpointFile
from surgery.errors import UsageError

if TYPE_CHECKING:
    import numpy

CLOSENESS = (
    0.01  # rounding to bfloat16 changes a row by 0.2 % of its norm, other rows differ by 100 % and more
)
SAMPLED_ROWS = 2  # per layer: a copy of a layer copies all of its rows
# Names that say what else a tensor is: the other projections of an attention, and value layers of other
# places, which the plan knows. They are most tensors of the right width; reading them all takes a second.
_EXPLAINED = re.compile(r"(\.attn[12]\.to_(q|k|v|out\.0)\.|attn[12]to_(q|k|v|out0))weight")
_GLANCE = 16  # elements compared before a whole row is read
_GLANCE_CLOSENESS = 0.1


def check_no_hidden_copy(files: Sequence[CheckpointFile], edits: Sequence[Edit]) -> None:
    """Refuse when a file to be written holds an edited row in a tensor that the plan does not edit.

    Args:
        files: the files to be written.
        edits: of all of them.

    Raises:
        UsageError: naming the tensor and the layer it repeats.
    """
    opened = {file.path: file.weights for file in files if file.weights is not None}
    by_columns = _candidates_by_columns(opened, {(edit.file, edit.tensor.name) for edit in edits})
    for edit in edits:
        shape = edit.tensor.shape
        candidates = [
            (path, tensor)
            for path, tensor in (by_columns.get(shape[1], []) if len(shape) == 2 else [])
            if tensor.shape[0] >= shape[0] and tensor.shape[0] % shape[0] == 0
        ]
        if not candidates:
            continue
        from surgery.checkpoint.formats.decode import decode

        for row in sorted({edit.rows[0], edit.rows[-1]})[:SAMPLED_ROWS]:
            sought = decode(read_row(opened[edit.file], edit.tensor, row), edit.tensor.dtype)
            if sought is None or not sought.any():
                continue
            for path, tensor in candidates:
                if _holds(opened[path], tensor, row, shape[0], sought):
                    raise UsageError(
                        path,
                        f"{tensor.name} holds a second copy of row {row} of {edit.layer}",
                        "remove it (unfuse projections, drop backups), and save the model again",
                    )


def _candidates_by_columns(
    opened: Mapping[str, Weights], edited: Container[tuple[str, str]]
) -> dict[int, list[tuple[str, Tensor]]]:
    """Width -> (file, tensor) of every matrix that is neither edited nor explained by its name."""
    found: dict[int, list[tuple[str, Tensor]]] = {}
    for path, weights in opened.items():
        for tensor in weights.header.tensors.values():
            if _EXPLAINED.search(tensor.name):
                continue
            if len(tensor.shape) >= 2 and (path, tensor.name) not in edited:
                found.setdefault(prod(tensor.shape[1:]), []).append((path, tensor))
    return found


def _holds(weights: Weights, tensor: Tensor, row: int, rows: int, sought: numpy.ndarray) -> bool:
    """Whether the tensor, cut into blocks of `rows` rows, has the sought row at place `row` of any block."""
    element = tensor.row_bytes // len(sought)
    glance = min(_GLANCE, len(sought))
    for block in range(tensor.shape[0] // rows):
        start, end = tensor.row_range(block * rows + row)
        seen = weights.read(start, start + glance * element)
        if _close(seen, tensor.dtype, sought[:glance], _GLANCE_CLOSENESS) and _close(
            weights.read(start, end), tensor.dtype, sought, CLOSENESS
        ):
            return True
    return False


def _close(data: bytes, dtype: str, sought: numpy.ndarray, closeness: float) -> bool:
    import numpy

    from surgery.checkpoint.formats.decode import decode

    found = decode(data, dtype)
    if found is None or len(found) != len(sought):
        return False
    with numpy.errstate(over="ignore", invalid="ignore"):
        distance = numpy.linalg.norm(found.astype(numpy.float64) - sought)
        is_close = distance <= closeness * numpy.linalg.norm(sought.astype(numpy.float64))
    return bool(is_close) or numpy.array_equal(found, sought, equal_nan=True)
