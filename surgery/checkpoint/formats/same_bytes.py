"""Whether two files, or parts of them, hold the same bytes, without loading either.

Equal data is recognized at reading speed: both sides are read into two fixed buffers that fit the processor's
cache and compared with one memcmp per chunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import Progress, SafetensorsWeights, Weights

CHUNK = 256 * 1024
_STEP = 2 * 1024 * 1024  # bytes of one side held where a side is no plain file


def same_bytes(first: Path, second: Path, advance: Progress) -> bool:
    """Whether two files hold the same bytes; two names of one file are not read."""
    if first.samefile(second):
        return True
    size = first.stat().st_size
    if size != second.stat().st_size:
        return False
    with first.open("rb", buffering=0) as one, second.open("rb", buffering=0) as other:
        pair = (one.fileno(), 0, other.fileno(), 0)
        return next(differing_chunks(*pair, size, advance), None) is None


def differing_chunks(
    first: int, first_begin: int, second: int, second_begin: int, length: int, advance: Progress
) -> Iterator[tuple[int, int]]:
    """Compare `length` bytes of two open files; yield the chunks that differ, as offsets from the beginnings.

    Args:
        first, second: file descriptors.
        first_begin, second_begin: where the bytes begin in each.
        length: how many bytes to compare.
        advance: called with numbers of bytes compared.

    Raises:
        OSError: a file became shorter.
    """
    one, other = bytearray(min(CHUNK, length)), bytearray(min(CHUNK, length))
    position = 0
    while position < length:
        step = min(CHUNK, length - position)
        if step < len(one):
            one, other = bytearray(step), bytearray(step)
        _fill(first, one, first_begin + position)
        _fill(second, other, second_begin + position)
        if one != other:
            yield position, position + step
        position += step
        advance(step)


def equal_tensors(first: Weights, one: Tensor, second: Weights, other: Tensor, advance: Progress) -> bool:
    """Whether two tensors of the same dtype and shape hold the same bytes."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return _equal_bytes(first, one.begin, second, other.begin, one.size, advance)


def equal_ranges(first: Weights, second: Weights, begin: int, end: int, shift: int = 0) -> bool:
    """Whether two weight files hold the same bytes from `begin` up to `end`, in the second `shift` later."""
    return _equal_bytes(first, begin, second, begin + shift, end - begin, lambda done: None)


def _equal_bytes(
    first: Weights, begin: int, second: Weights, other_begin: int, length: int, advance: Progress
) -> bool:
    if isinstance(first, SafetensorsWeights) and isinstance(second, SafetensorsWeights):
        pair = (first.descriptor(), begin, second.descriptor(), other_begin)
        return next(differing_chunks(*pair, length, advance), None) is None
    for position in range(0, length, _STEP):
        stop = min(position + _STEP, length)
        data = first.read(begin + position, begin + stop)
        if data != second.read(other_begin + position, other_begin + stop):
            return False
        advance(stop - position)
    return True


def _fill(descriptor: int, buffer: bytearray, position: int) -> None:
    done = os.preadv(descriptor, [buffer], position)
    while done < len(buffer):
        more = os.preadv(descriptor, [memoryview(buffer)[done:]], position + done)
        if not more:
            raise OSError("a file became shorter while it was compared")
        done += more
