"""The safetensors format: read a header, check it, and say where every row of a tensor lies.

A file is 8 bytes (little-endian N), N bytes of JSON, then the data; the JSON maps a tensor name to its dtype,
shape and data offsets, and `__metadata__` to string pairs. Source: the format's own description,
https://github.com/huggingface/safetensors#format.

The checks are those of the safetensors library (one that it refuses is refused here) and one more: a name
that stands twice. The library keeps the last of two equal names, so a second tensor can hide behind the
first.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from surgery.errors import UsageError

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
DTYPE_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
_LARGEST_INTEGER = 2**64 - 1
_DEEPEST_NESTING = 127  # the library's JSON parser gives up at 128 levels

# what a file may be instead, by its first bytes
_IMPOSTORS = {
    b"version https://git-lfs": ("is a git-lfs pointer, not the weights", "run `git lfs pull`"),
    b"PK\x03\x04": ("is a zip archive (a torch pickle?), not safetensors", "give it its true suffix"),
    b"\x80": ("is a pickle, not safetensors", "give it its true suffix (.bin, .ckpt)"),
    b"<": ("is a web page, not safetensors", "download it again"),
    b"GGUF": ("is a GGUF file (quantized weights)", "give the unquantized checkpoint"),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: `begin` and `end` count bytes from the start of the FILE."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.begin

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is of one entry of the first dimension."""
        return self.size // self.shape[0] if self.shape and self.shape[0] else 0

    def row_range(self, row: int) -> tuple[int, int]:
        """The first byte of a row in the file, and the byte after its last."""
        start = self.begin + row * self.row_bytes
        return start, start + self.row_bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: tensors in the order of their bytes, metadata, and the length of the whole file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] | None
    data_start: int
    file_bytes: int


def read_header(path: str | Path, shown: str = "") -> Header:
    """Read and check the header of a safetensors file.

    Args:
        path: the file; a symbolic link is followed.
        shown: how messages call the file (default: its path).

    Raises:
        UsageError: the file is missing, is something else, or breaks the format in any way.
    """
    shown = shown or str(path)
    if Path(path).exists() and not Path(path).is_file():
        raise UsageError(shown, "is not a regular file", "give a .safetensors file")  # a pipe would block
    try:
        with Path(path).open("rb") as file:
            return parse_header(file, os.fstat(file.fileno()).st_size, shown)
    except OSError as error:
        raise UsageError(shown, f"cannot be read ({error.strerror})", "check the path") from None


def parse_header(file: BinaryIO, file_bytes: int, shown: str) -> Header:
    """Read and check the header of an open file of `file_bytes` bytes; errors as `read_header`."""
    start = file.read(LENGTH_BYTES)
    if len(start) < LENGTH_BYTES:
        _refuse(shown, f"is cut short: {file_bytes} bytes hold no safetensors header")
    (header_bytes,) = struct.unpack("<Q", start)
    if header_bytes > MAX_HEADER_BYTES:
        _refuse_impostor(shown, start + file.read(64))
        _refuse(shown, "is not safetensors: its first eight bytes announce a header above 100 MB")
    if header_bytes + LENGTH_BYTES > file_bytes:
        _refuse_impostor(shown, start + file.read(64))
        _refuse(shown, f"is cut short: a header of {header_bytes} bytes in a file of {file_bytes}")
    tensors, metadata = _parse_json(file.read(header_bytes), shown)
    data_start = LENGTH_BYTES + header_bytes
    ordered = _check_layout(tensors, data_start, file_bytes, shown)
    return Header(ordered, metadata, data_start, file_bytes)


def row_positions(tensor: Tensor, rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """The byte ranges of the given rising rows, neighbors joined into one range."""
    return joined(tensor.row_range(row) for row in rows)


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rising byte ranges, those that touch made one."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _parse_json(raw: bytes, shown: str) -> tuple[list[Tensor], dict[str, str] | None]:
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_pairs,
            parse_int=_parse_integer,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
        )
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
        _check_nesting(document, 1)
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        _refuse(shown, f"its header is not valid JSON ({' '.join(str(error).split())})")
    metadata = document.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        _refuse(shown, "its __metadata__ is not a map from text to text")
    return [_parse_tensor(name, entry, shown) for name, entry in document.items()], metadata


def _parse_tensor(name: str, entry: Any, shown: str) -> Tensor:
    if isinstance(entry, list) and len(entry) == 3:  # the library reads the three fields in this order too
        entry = dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True))
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        _refuse(shown, f"the entry of tensor {name!r} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, dict) and len(dtype) == 1 and next(iter(dtype.values())) is None:
        dtype = next(iter(dtype))
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _refuse(shown, f"tensor {name!r} has the unknown dtype {dtype!r}")
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(_is_length(number) for number in numbers):
            _refuse(shown, f"the {field} of tensor {name!r} are not whole numbers of at least 0")
    if len(offsets) != 2:
        _refuse(shown, f"tensor {name!r} has {len(offsets)} data offsets instead of two")
    return Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])


def _check_layout(tensors: list[Tensor], data_start: int, file_bytes: int, shown: str) -> dict[str, Tensor]:
    """Tensors must cover the data exactly: no hole, no overlap, no rest, each as large as dtype x shape."""
    position = 0
    ordered: dict[str, Tensor] = {}
    for tensor in sorted(tensors, key=lambda each: (each.begin, each.end)):
        if tensor.begin != position or tensor.end < tensor.begin:
            _refuse(shown, f"the bytes of tensor {tensor.name!r} leave a hole or overlap others")
        elements = 1
        for length in tensor.shape:
            elements *= length
            if elements > _LARGEST_INTEGER:
                _refuse(shown, f"tensor {tensor.name!r} has an impossible shape {list(tensor.shape)}")
        bits = elements * DTYPE_BITS[tensor.dtype]
        if bits > _LARGEST_INTEGER or bits % 8 or bits // 8 != tensor.size:
            cause = f"tensor {tensor.name!r} takes {tensor.size} bytes, not what {tensor.dtype} "
            _refuse(shown, f"{cause}of shape {list(tensor.shape)} takes")
        position = tensor.end
        begin, end = tensor.begin + data_start, tensor.end + data_start
        ordered[tensor.name] = Tensor(tensor.name, tensor.dtype, tensor.shape, begin, end)
    if data_start + position != file_bytes:
        missing = data_start + position - file_bytes
        _refuse(
            shown, f"is cut short by {missing} bytes" if missing > 0 else f"has {-missing} bytes too many"
        )
    return ordered


def _is_length(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= _LARGEST_INTEGER


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name!r} stands twice")
            seen.add(name)
    return unique


def _parse_integer(text: str) -> int | float:
    # JSON knows no -0 among the integers, and the library reads numbers beyond 64 bits as floating point
    if text == "-0" or len(text) > 20:
        return _parse_float(text)
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _check_nesting(value: Any, depth: int) -> None:
    if depth > _DEEPEST_NESTING:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for inner in value:
        if isinstance(inner, (dict, list)):
            _check_nesting(inner, depth + 1)


def _refuse_impostor(shown: str, start: bytes) -> None:
    for signature, (cause, way_out) in _IMPOSTORS.items():
        if start.startswith(signature):
            raise UsageError(shown, cause, way_out)


def _refuse(shown: str, cause: str) -> NoReturn:
    raise UsageError(shown, cause, "download or save the file again")
