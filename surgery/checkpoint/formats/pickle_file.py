"""Torch pickles, presented as the safetensors files that they become."""

from __future__ import annotations

import bisect
import json
import os
import struct
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.formats.json_text import shortened
from surgery.checkpoint.formats.pickle_archive import ALWAYS_ALLOWED_BYTES, MAX_EXPANSION
from surgery.checkpoint.formats.pickle_file_loading import load_pickle
from surgery.checkpoint.formats.safetensors_file import LENGTH_BYTES, Header, Tensor
from surgery.checkpoint.formats.weights import Progress
from surgery.errors import UsageError

if TYPE_CHECKING:
    import torch

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


class PickleWeights:
    """A torch pickle as the safetensors file it becomes; see `surgery.checkpoint.formats.weights.Weights`.

    Args:
        path: the pickle: `.bin`, `.ckpt`, `.pt`, `.pth`.
        shown: how messages call it.

    Attributes:
        dropped: names of what stands beside the tensors and is not carried over (optimizer states, ...).

    Raises:
        UsageError: torch is too old, the file is no pickle of tensors, it holds anything that could run, or
            its tensors would take far more room than the file.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self._tensors, self.dropped = _state_dict(load_pickle(path, shown), shown)
        _check_size(self._tensors, path.stat().st_size, shown)
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
        width = values.element_size()
        first, last = begin // width, -(-end // width)
        if first == last:
            return b""
        numbers = _numbers(values, first, last)
        # a single number may keep the stride of the row or column that it was cut from
        data = numbers.as_strided(numbers.shape, (1,)).view(torch.uint8)
        return data[begin - first * width : end - first * width].numpy().tobytes()


def _numbers(values: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """The numbers from `first` up to `last` in the order of a contiguous tensor, as a flat one.

    A transposed or expanded tensor is never made contiguous whole: it may be as large as the file, or larger.
    """
    if values.is_contiguous() and not values.is_neg():
        return values.flatten()[first:last]
    row = prod(values.shape[1:])
    start, stop = first // row, -(-last // row)
    if stop - start == 1 and values.ndim > 1:
        return _numbers(values[start], first - start * row, last - start * row)
    if values.ndim > 1 and (first % row or last % row):  # parts of rows at the ends, whole rows between them
        import torch

        edges = sorted({first, min(last, -(-first // row) * row), max(first, last // row * row), last})
        pieces = [_numbers(values, begin, end) for begin, end in pairwise(edges)]
        return torch.cat(pieces)
    return values[start:stop].resolve_neg().contiguous().flatten()[first - start * row : last - start * row]


def _state_dict(loaded: Any, shown: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors of a loaded checkpoint, whose `state_dict` may be nested, and the names of all the rest."""
    import torch

    dropped: list[str] = []
    for _ in range(_DEEPEST_NESTING):
        if not isinstance(loaded, Mapping) or not isinstance(loaded.get("state_dict"), Mapping):
            break
        _check_level(loaded, shown)
        dropped += [shortened(str(name)) for name in loaded if name != "state_dict"]
        loaded = loaded["state_dict"]
    tensors = {}
    for name, value in loaded.items() if isinstance(loaded, Mapping) else ():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            dropped.append(shortened(str(name)))
            continue
        # a method of the class: a tensor of a pickle may carry an attribute of any name
        tensors[name] = torch.Tensor.detach(value)
        _check_tensor(name, tensors[name], shown)
    if not tensors:
        raise UsageError(shown, "holds no tensors under their names", "give a state dict")
    return tensors, tuple(dropped)


def _check_level(loaded: Mapping[Any, Any], shown: str) -> None:
    """Refuse weights beside a `state_dict`: some loaders take the top level, others what is nested in it."""
    import torch

    for name, value in loaded.items():
        if isinstance(name, str) and "." in name and isinstance(value, torch.Tensor):
            raise UsageError(
                shown,
                f"holds weights at its top level ({shortened(name)}) and in state_dict; which of them a "
                "loader takes cannot be told",
                "save the ones you mean as safetensors",
            )


def _check_tensor(name: str, value: torch.Tensor, shown: str) -> None:
    import torch

    is_plain = value.layout is torch.strided and value.device.type == "cpu"
    if not is_plain or value.is_quantized or value.is_nested:
        raise UsageError(
            shown, f"{shortened(name)} has no place in a safetensors file", "patch the plain checkpoint"
        )
    if name == "__metadata__" or not _is_text(name):
        cause = f"a tensor is named {shortened(ascii(name))}, which no safetensors file can say"
        raise UsageError(shown, cause, "rename it, and save the model again")


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _check_size(tensors: Mapping[str, torch.Tensor], file_bytes: int, shown: str) -> None:
    """Refuse what would become far larger: one number can be expanded to a tensor of any shape.

    Tied weights stand under two names or three, and are written as often.
    """
    total = sum(values.numel() * values.element_size() for values in tensors.values())
    if total > MAX_EXPANSION * file_bytes + ALWAYS_ALLOWED_BYTES:
        cause = f"its tensors would take {total} bytes, the file takes {file_bytes}: some are expanded"
        raise UsageError(shown, cause, "save the model again from a framework that stores them once")


def _layout(tensors: Mapping[str, torch.Tensor], shown: str) -> tuple[Header, bytes]:
    """The safetensors header of the tensors, largest elements first for alignment, and its bytes."""
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in order:
        values = tensors[name]
        if str(values.dtype) not in _DTYPES:
            raise UsageError(
                shown, f"{shortened(name)} is of dtype {values.dtype}", "patch the unquantized checkpoint"
            )
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
