"""Were these neurons found in this model? The fingerprint of a denoiser, from a checkpoint's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.formats.weights import Weights, read_row
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy, ValueLayer
from surgery.checkpoint.survey.survey import Checkpoint
from surgery.errors import UsageError

if TYPE_CHECKING:
    import numpy


def copy_fingerprint(checkpoint: Checkpoint, copy: DenoiserCopy) -> dict[str, Any]:
    """The fingerprint (`surgery.fingerprint`) of one copy, over all of its value layers."""
    from surgery.fingerprint import fingerprint

    layers = {}
    for name, layer in copy.layers.items():
        weights = checkpoint.file(layer.file).weights
        assert weights is not None  # a copy is made of opened files
        layers[name] = ((layer.rows, layer.columns), _row_reader(weights, layer))
    return fingerprint(layers)


def match_copies(checkpoint: Checkpoint, expected: Mapping[str, Any]) -> dict[str, str | None]:
    """For every copy: None where the fingerprint `expected` matches it, else the difference in a few words.

    Raises:
        UsageError: `expected` is not a fingerprint.
    """
    from surgery.fingerprint import difference

    try:
        return {
            copy.label: difference(expected, copy_fingerprint(checkpoint, copy)) for copy in checkpoint.copies
        }
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError):  # a norm may be 10^400
        cause = "its fingerprint cannot be read"
        raise UsageError("neurons", cause, "write it with `surgery localize`, or drop the field") from None


def _row_reader(weights: Weights, layer: ValueLayer) -> Any:
    from surgery.checkpoint.formats.decode import decode

    def read(row: int) -> numpy.ndarray:
        numbers = decode(read_row(weights, layer.weight, row), layer.weight.dtype)
        if numbers is None:
            raise UsageError(
                layer.file, f"{layer.name} is of dtype {layer.weight.dtype}", "give float weights"
            )
        return numbers

    return read
