"""One weight file, whatever its kind, seen as safetensors: a header, bytes to read, bytes to write.

`SafetensorsWeights` is the file itself. `PickleWeights` (`pickle_file`) presents a torch pickle as the
safetensors file that it will become, so that planning, patching, verifying and comparing know one kind only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import surgery.checkpoint.formats.kernel_copy as kernel_copy
from surgery.checkpoint.formats.safetensors_file import Header, Tensor, read_header

Progress = Callable[[int], None]


class Weights(Protocol):
    """What the rest of the wing needs of a weight file. Positions count bytes of the safetensors form."""

    header: Header

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` up to `end`."""
        ...

    def write(self, descriptor: int, advance: Progress) -> None:
        """Write it all to an open, empty file; `advance` is called with every number of bytes done."""
        ...


class SafetensorsWeights:
    """A safetensors file on disk; it is opened once, when first read, and never written.

    Raises:
        UsageError: on construction, when the file is not valid safetensors.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self.path = path
        self.header = read_header(path, shown)
        self._descriptor: int | None = None

    def descriptor(self) -> int:
        """The open file."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` up to `end` of the file."""
        data = os.pread(self.descriptor(), end - begin, begin)
        while len(data) < end - begin:  # the kernel returns at most 2 GB at a time
            more = os.pread(self.descriptor(), end - begin - len(data), begin + len(data))
            if not more:
                raise OSError(f"{self.path.name} became shorter while it was read")
            data += more
        return data

    def write(self, descriptor: int, advance: Progress) -> None:
        """Copy the file into `descriptor` inside the kernel."""
        kernel_copy.copy_into(self.path, descriptor, advance)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


def read_row(weights: Weights, tensor: Tensor, row: int) -> bytes:
    """The bytes of one row (of one element, for a bias) of a tensor."""
    return weights.read(*tensor.row_range(row))
