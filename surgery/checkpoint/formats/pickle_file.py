"""Torch pickles, presented as the safetensors files that they become; the only module here with torch.

A pickle is a program. It is read with `torch.load(weights_only=True)`, whose interpreter knows tensors and
plain containers only, and never with a torch older than 2.6, whose restricted interpreter could be escaped
(CVE-2025-32434). What checkpoints of the Stable Diffusion era hold besides tensors (numpy scalars, class
names of the training framework) is answered by inert stand-ins; anything else is refused by torch before it
runs.
"""

from __future__ import annotations

import bisect
import json
import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.formats.safetensors_file import LENGTH_BYTES, Header, Tensor
from surgery.checkpoint.formats.weights import Progress
from surgery.errors import UsageError

if TYPE_CHECKING:
    import torch

LEAST_TORCH = (2, 6)
_WRITE_STEP = 16 * 1024 * 1024
_DEEPEST_NESTING = 8
# torch dtype name -> safetensors dtype; anything else (quantized, complex) is refused
_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
# class names that training frameworks left in checkpoints as mere dictionary keys
_INERT_NAMES = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.types.LRSchedulerConfig",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
)


class InertStandIn:
    """Stands for a class of a training framework that a checkpoint merely names."""


class PickleWeights:
    """A torch pickle as the safetensors file it becomes; see `surgery.checkpoint.formats.weights.Weights`.

    Args:
        path: the pickle: `.bin`, `.ckpt`, `.pt`, `.pth`.
        shown: how messages call it.

    Attributes:
        dropped: names of what stands beside the tensors and is not carried over (optimizer states, ...).

    Raises:
        UsageError: torch is too old, the file is no pickle of tensors, or it holds anything that could run.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self._tensors, self.dropped = _state_dict(_load(path, shown), shown)
        self.header, self._start = _layout(self._tensors, shown)
        ordered = list(self.header.tensors.values())
        self._begins = [tensor.begin for tensor in ordered]
        self._names = [tensor.name for tensor in ordered]

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` up to `end` of the safetensors form."""
        parts = []
        while begin < end:
            if begin < self.header.data_start:
                stop = min(end, self.header.data_start)
                parts.append(self._start[begin:stop])
            else:
                # the last tensor that starts at or before `begin`; empty ones share their place with the next
                tensor = self.header.tensors[self._names[bisect.bisect_right(self._begins, begin) - 1]]
                stop = min(end, tensor.end)
                parts.append(self._bytes_of(tensor, begin - tensor.begin, stop - tensor.begin))
            begin = stop
        return b"".join(parts)

    def write(self, descriptor: int, advance: Progress) -> None:
        """Write the safetensors form, a few megabytes at a time."""
        position = 0
        while position < self.header.file_bytes:
            data = self.read(position, min(position + _WRITE_STEP, self.header.file_bytes))
            written = os.write(descriptor, data)
            position += written
            advance(written)

    def _bytes_of(self, tensor: Tensor, begin: int, end: int) -> bytes:
        import torch

        values = self._tensors[tensor.name]
        if not values.is_contiguous():
            values = values.contiguous()
        return values.flatten().view(torch.uint8)[begin:end].numpy().tobytes()


def _load(path: Path, shown: str) -> Any:
    import numpy
    import torch

    version = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in torch.__version__.split(".")[:2])
    if version < LEAST_TORCH:
        raise UsageError(
            shown, f"is a pickle, and torch {torch.__version__} reads pickles unsafely", "use torch 2.6"
        )
    stand_ins: list[Any] = [(InertStandIn, name) for name in _INERT_NAMES]
    numbers: list[Any] = [
        (_numpy_scalar(), "numpy.core.multiarray.scalar"),  # where numpy 1 had it
        _numpy_scalar(),
        numpy.dtype,
        *(type(numpy.dtype(code)) for code in "?bBhHiIlLefd"),
    ]
    with torch.serialization.safe_globals([*stand_ins, *numbers]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on pickle protocols
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            if "mmap" not in str(error):
                raise _refusal(shown, error) from None
        try:  # the file format of torch before 1.6 cannot be memory-mapped
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise _refusal(shown, error) from None


def _numpy_scalar() -> Any:
    """The function that pickled numpy scalars name; it makes a number of a dtype and bytes."""
    import numpy

    return numpy.float64(0.0).__reduce__()[0]


def _refusal(shown: str, error: Exception) -> UsageError:
    text = str(error)
    if "Unsupported" in text or "GLOBAL" in text or "WeightsUnpickler" in text:
        named = text.partition("GLOBAL ")[2].split(" ")[0]
        cause = (
            f"is a pickle that would run code when read ({named})"
            if named
            else "is a pickle that could run code"
        )
        return UsageError(shown, f"{cause}; nothing of it was run", "get a safetensors file")
    return UsageError(
        shown, "is not a torch pickle that can be read", "download it again, or get a safetensors file"
    )


def _state_dict(loaded: Any, shown: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors of a loaded checkpoint, whose `state_dict` may be nested, and the names of all the rest."""
    import torch

    dropped: list[str] = []
    for _ in range(_DEEPEST_NESTING):
        if not isinstance(loaded, Mapping) or not isinstance(loaded.get("state_dict"), Mapping):
            break
        dropped += [str(name) for name in loaded if name != "state_dict"]
        loaded = loaded["state_dict"]
    tensors = {}
    for name, value in loaded.items() if isinstance(loaded, Mapping) else ():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            dropped.append(str(name))
            continue
        if value.layout is not torch.strided or value.is_quantized or name == "__metadata__":
            raise UsageError(
                shown, f"{name} has no place in a safetensors file", "patch the plain checkpoint"
            )
        tensors[name] = value.detach()
    if not tensors:
        raise UsageError(shown, "holds no tensors under their names", "give a state dict")
    return tensors, tuple(dropped)


def _layout(tensors: Mapping[str, torch.Tensor], shown: str) -> tuple[Header, bytes]:
    """The safetensors header of the tensors, largest elements first for alignment, and its bytes."""
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in order:
        values = tensors[name]
        if str(values.dtype) not in _DTYPES:
            raise UsageError(shown, f"{name} is of dtype {values.dtype}", "patch the unquantized checkpoint")
        end = position + values.numel() * values.element_size()
        shape = list(values.shape)
        entries[name] = {"dtype": _DTYPES[str(values.dtype)], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    start = struct.pack("<Q", len(text)) + text
    laid_out = {}
    for name in order:
        entry = entries[name]
        begin, end = (len(start) + offset for offset in entry["data_offsets"])
        laid_out[name] = Tensor(name, entry["dtype"], tuple(entry["shape"]), begin, end)
    return Header(laid_out, {"format": "pt"}, LENGTH_BYTES + len(text), len(start) + position), start
