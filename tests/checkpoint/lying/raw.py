"""Read and write safetensors files without any check, so that a test can write what no library would.

Nothing here is shared with `surgery`: a mistake in its reader must not hide in the tests' writer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class Entry:
    """One tensor of a file: its name, dtype, shape and bytes."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes

    @property
    def row_bytes(self) -> int:
        """The number of bytes of one entry of the first dimension."""
        return len(self.data) // self.shape[0]

    def row(self, row: int) -> bytes:
        """The bytes of one row."""
        return self.data[row * self.row_bytes : (row + 1) * self.row_bytes]

    def put(self, begin: int, data: bytes) -> None:
        """Write `data` over the tensor's bytes from `begin` on."""
        self.data = self.data[:begin] + data + self.data[begin + len(data) :]

    def tensor(self) -> torch.Tensor:
        """Its numbers."""
        flat = torch.frombuffer(bytearray(self.data), dtype=DTYPES[self.dtype])
        return flat.reshape(self.shape)


@dataclass
class Raw:
    """A whole file: its metadata and its tensors in the order of the header, which is that of the data."""

    entries: list[Entry]
    metadata: dict[str, str] | None = None
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The names of its tensors."""
        return [entry.name for entry in self.entries]

    def entry(self, name: str) -> Entry:
        """The tensor of that name."""
        return next(entry for entry in self.entries if entry.name == name)


def entry_of(name: str, tensor: torch.Tensor) -> Entry:
    """A tensor as an entry."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return Entry(name, _NAMES[tensor.dtype], list(tensor.shape), data)


def read_raw(path: Path) -> Raw:
    """The file, taken apart."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    metadata = header.pop("__metadata__", None)
    entries = []
    for name, fields in header.items():
        begin, end = fields["data_offsets"]
        entries.append(Entry(name, fields["dtype"], fields["shape"], data[begin:end]))
    return Raw(entries, metadata)


def header_of(raw: Raw) -> dict[str, Any]:
    """The header as a JSON value, offsets in the order of the entries."""
    header: dict[str, Any] = {} if raw.metadata is None else {"__metadata__": raw.metadata}
    position = 0
    for entry in raw.entries:
        offsets = [position, position + len(entry.data)]
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
        header[entry.name].update(raw.extra.get(entry.name, {}))
        position += len(entry.data)
    return header


def write_header(path: Path, header: bytes, data: bytes) -> None:
    """Write a header, as it is, and data; padded to a multiple of eight bytes as the library does."""
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def write_raw(path: Path, raw: Raw) -> None:
    """Write the file, byte by byte as the library would."""
    header = compact(header_of(raw))
    write_header(path, header, b"".join(entry.data for entry in raw.entries))


def rewrite(path: Path, change: Callable[[Raw], Any]) -> Any:
    """Change a file in place; returns what `change` returns."""
    raw = read_raw(path)
    result = change(raw)
    write_raw(path, raw)
    return result


def split_header(path: Path) -> tuple[bytes, bytes]:
    """The header's bytes (without padding) and the data."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length].rstrip(b" "), content[8 + length :]


def compact(value: Any) -> bytes:
    """JSON as the safetensors library writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
