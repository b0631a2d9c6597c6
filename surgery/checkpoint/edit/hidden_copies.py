"""Look for the rows to be zeroed under other names, whatever those are.

Names can be unknown to us (a fused projection, a renamed backup, an EMA in a component's file), numbers
cannot: a tensor that is as wide as a value layer, as long or a multiple of it, and holds a listed row at
its place is a second copy. Half-precision copies count too: a row matches when the difference is below one
per cent of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import Weights, read_row
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.roles import CheckpointFile
from surgery.errors import UsageError
from surgery.neurons import NeuronSet

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


def check_no_twin(
    files: Sequence[CheckpointFile], copies: Iterable[DenoiserCopy], neurons: NeuronSet
) -> None:
    """Refuse when a file to be written holds a listed row in a tensor that the plan does not edit.

    Args:
        files: the files to be written.
        copies: the denoiser copies among them, each with every layer of `neurons`.
        neurons: the rows to be zeroed.

    Raises:
        UsageError: naming the tensor and the layer it repeats.
    """
    opened = {file.path: file.weights for file in files if file.weights is not None}
    edited = {
        (path, tensor.name)
        for copy in copies
        for layer in neurons
        for path, tensor in copy.layers[layer].tensors()
    }
    by_columns: dict[int, list[tuple[str, Tensor]]] = {}
    for path, weights in opened.items():
        for tensor in weights.header.tensors.values():
            if _EXPLAINED.search(tensor.name):
                continue
            if len(tensor.shape) >= 2 and (path, tensor.name) not in edited:
                by_columns.setdefault(prod(tensor.shape[1:]), []).append((path, tensor))
    for copy in copies:
        for name, rows in neurons.items():
            layer = copy.layers[name]
            own = opened[layer.file]
            candidates = [
                (path, tensor)
                for path, tensor in by_columns.get(layer.columns, [])
                if tensor.shape[0] >= layer.rows and tensor.shape[0] % layer.rows == 0
            ]
            if not candidates:
                continue
            from surgery.checkpoint.formats.decode import decode

            for row in sorted({rows[0], rows[-1]})[:SAMPLED_ROWS]:
                sought = decode(read_row(own, layer.weight, row), layer.weight.dtype)
                for path, tensor in candidates:
                    if (
                        sought is not None
                        and sought.any()
                        and _holds(opened[path], tensor, row, layer.rows, sought)
                    ):
                        raise UsageError(
                            path,
                            f"{tensor.name} holds a second copy of row {row} of {name}",
                            "remove it (unfuse projections, drop backups), and save the model again",
                        )


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
