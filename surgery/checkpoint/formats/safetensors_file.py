"""The safetensors format: read a header, check it, and say where every row of a tensor lies.

A file is 8 bytes (little-endian N), N bytes of JSON, then the data; the JSON maps a tensor name to its dtype,
shape and data offsets, and `__metadata__` to string pairs. Source: the format's own description,
https://github.com/huggingface/safetensors#format.

The checks are those of the safetensors library (one that it refuses is refused here) and two more: a name
that stands twice (`header_json`), and a header that is larger, or has more values, than any checkpoint's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from surgery.checkpoint.formats.header_json import parse_header_json
from surgery.checkpoint.formats.impostors import SIGNATURE_BYTES, refuse_not_safetensors
from surgery.checkpoint.formats.json_text import shortened
from surgery.checkpoint.formats.regular_file import open_regular
from surgery.errors import UsageError

# The library allows 100 MB, whose parse can take gigabytes. A header of 100,000 tensors takes 15 MB.
MAX_HEADER_BYTES = 32_000_000
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
    def has_whole_rows(self) -> bool:
        """Whether every row starts and ends between two bytes; rows of 4 and 6 bits a value need not."""
        return not self.shape or not self.shape[0] or self.size % self.shape[0] == 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is of one entry of the first dimension; 0 where rows share bytes."""
        if not self.shape or not self.shape[0] or not self.has_whole_rows:
            return 0
        return self.size // self.shape[0]

    def row_range(self, row: int) -> tuple[int, int]:
        """The first byte of the file that holds a part of a row, and the byte after the last that does."""
        if not self.shape or not self.shape[0]:
            return self.begin, self.begin
        bits, rows = 8 * self.size, self.shape[0]  # every row takes the same number of bits
        row_bits = bits // rows
        return self.begin + row * row_bits // 8, self.begin - (-(row + 1) * row_bits // 8)


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
    with open_regular(Path(path), shown) as file:
        try:
            return parse_header(file, os.fstat(file.fileno()).st_size, shown)
        except OSError as error:
            raise UsageError(shown, f"cannot be read ({error.strerror})", "check the disk") from None


def parse_header(file: BinaryIO, file_bytes: int, shown: str) -> Header:
    """Read and check the header of an open file of `file_bytes` bytes; errors as `read_header`."""
    start = file.read(LENGTH_BYTES)
    if len(start) < LENGTH_BYTES:
        _refuse(shown, f"is cut short: {file_bytes} bytes hold no safetensors header")
    (header_bytes,) = struct.unpack("<Q", start)
    if header_bytes > MAX_HEADER_BYTES:
        refuse_not_safetensors(shown, start + file.read(SIGNATURE_BYTES - LENGTH_BYTES))
        _refuse(shown, "is not safetensors: its first eight bytes announce a header above 32 MB")
    if header_bytes + LENGTH_BYTES > file_bytes:
        refuse_not_safetensors(shown, start + file.read(SIGNATURE_BYTES - LENGTH_BYTES))
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
        document = parse_header_json(raw)
    except (ValueError, RecursionError) as error:
        _refuse(shown, f"its header is not valid JSON ({shortened(str(error))})")
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


def _refuse(shown: str, cause: str) -> NoReturn:
    raise UsageError(shown, shortened(cause), "download or save the file again")
