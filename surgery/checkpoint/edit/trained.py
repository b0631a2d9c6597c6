"""Trained tensors take the place of a denoiser's own, in every copy, in each copy's own number type.

The numbers come from the file of an edit (`surgery.checkpoint.edit.edit_file`) and are read and converted a
piece at a time: rounding is to the nearest, ties to even, as torch does it. Rows that the edit zeroes are
left to `ZeroRows`. A copy that lacks a tensor, or holds it in another shape or in a type that cannot be
rounded to, is refused: a copy that is not edited would carry the memory on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from surgery.checkpoint.edit.edits import Edit
from surgery.checkpoint.formats.decode import decode, encode
from surgery.checkpoint.formats.safetensors_file import DTYPE_BITS, Tensor
from surgery.checkpoint.formats.weights import Weights
from surgery.checkpoint.survey.denoiser_copies import FLOATING, DenoiserCopy
from surgery.errors import UsageError
from surgery.neurons import NeuronSet

_STEP = 1 << 20  # bytes converted at once


@dataclass(frozen=True)
class TrainedContent:
    """One trained tensor, as a copy of another number type holds it.

    Attributes:
        weights, source: the edit's file, and where the tensor lies in it.
        dtype: of the copy.
    """

    weights: Weights
    source: Tensor
    dtype: str

    name = "trained"
    failure = "is not what the edit says"

    def read(self, begin: int, end: int) -> bytes:
        """The new bytes from `begin` up to `end`, counted from the start of the copy's tensor."""
        width, own = DTYPE_BITS[self.dtype] // 8, DTYPE_BITS[self.source.dtype] // 8
        first, last = begin // width, -(-end // width)  # whole numbers around the wanted bytes
        data = self.weights.read(self.source.begin + first * own, self.source.begin + last * own)
        if self.source.dtype != self.dtype:
            numbers = decode(data, self.source.dtype)
            assert numbers is not None  # `read_edit` takes floating types alone
            data = encode(numbers, self.dtype)
        return data[begin - first * width : end - first * width]

    def entry(self, edit: Edit) -> str:
        """sha256 of the new bytes of the whole tensor, zeroed rows as they were trained."""
        hasher = hashlib.sha256()
        for begin in range(0, edit.tensor.size, _STEP):
            hasher.update(self.read(begin, min(begin + _STEP, edit.tensor.size)))
        return hasher.hexdigest()


@dataclass(frozen=True)
class ReplaceTensors:
    """The change that hardening is for: whole tensors of the denoiser become trained ones.

    Attributes:
        weights: the edit's file: its tensors under diffusers' names.
        neurons: rows that become zero besides; they are not this change's.
        facts: what the manifest says of the file.
    """

    weights: Weights
    neurons: NeuronSet = field(default_factory=NeuronSet)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def edits(self, copy: DenoiserCopy) -> list[Edit]:
        """One edit for each tensor.

        Raises:
            UsageError: the copy lacks one, or holds it in another shape or in no floating type.
        """
        found, held = [], copy.tensors
        for name, trained in self.weights.header.tensors.items():
            if name not in held:
                raise UsageError(
                    copy.label, f"has no tensor {name}, which the edit trains", "is it an edit of this model?"
                )
            path, tensor = held[name]
            if tensor.dtype not in FLOATING:
                raise UsageError(
                    copy.label, f"{name} is of dtype {tensor.dtype}", "patch floating-point weights"
                )
            if _shape(tensor) != _shape(trained):
                raise UsageError(
                    copy.label,
                    f"{name} has shape {list(tensor.shape)}, the edit {list(trained.shape)}",
                    "is it an edit of this model?",
                )
            layer, _, _ = name.rpartition(".")
            zeroed = set(self.neurons.get(layer, ()))
            rows = tuple(row for row in range(tensor.shape[0] if tensor.shape else 0) if row not in zeroed)
            found.append(Edit(path, layer, tensor, rows, TrainedContent(self.weights, trained, tensor.dtype)))
        return found


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape without ones at its end: single files hold as 1x1 convolutions what is linear elsewhere."""
    shape = tensor.shape
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return (prod(shape),) if len(shape) == 1 else shape
