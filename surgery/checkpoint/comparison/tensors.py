"""Compare bytes and tensors of two weight files without loading either.

Equal data is recognised at reading speed: both sides are read into two fixed buffers that fit the processor's
cache and compared with one memcmp per chunk. Only chunks that differ are looked at row by row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import Progress, SafetensorsWeights, Weights

CHUNK = 256 * 1024
_ROWS_STEP = 2 * 1024 * 1024  # bytes of one side held while rows are compared
_ABSOLUTE_TOLERANCE = 1e-7  # float16 keeps no relative precision below 6e-5


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor that both sides have and that differs.

    Attributes:
        name: its name, in side A's naming.
        dtypes, shapes: of A and of B.
        rows: the rows (first dimension) that differ; None where the shapes do.
        zero_rows: those of `rows` that are all zero bytes in B.
        total_rows: how many rows the tensor has in A.
        largest: the largest absolute difference of two values in rows that are not zero in B, or None.
    """

    name: str
    dtypes: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    rows: tuple[int, ...] | None
    zero_rows: tuple[int, ...]
    total_rows: int
    largest: float | None

    @property
    def all_zero(self) -> bool:
        """Whether every differing row is zero in B."""
        return self.rows is not None and self.rows == self.zero_rows


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


def compare_tensors(
    first: Weights,
    one: Tensor,
    second: Weights,
    other: Tensor,
    *,
    tolerance: float,
    name: str,
    across_layouts: bool,
) -> TensorDifference | None:
    """Compare two tensors row by row.

    Args:
        first, second: the files.
        one, other: the tensors.
        tolerance: values a and b count as equal when |a - b| <= tolerance * |a| + 1e-7; 0 compares bytes.
        name: how the difference calls the tensor.
        across_layouts: shapes that differ only by lengths of 1 at their ends are the same (a 1x1
            convolution in one layout, a linear layer in the other).

    Returns:
        the difference, or None.
    """
    dtypes, shapes = (one.dtype, other.dtype), (one.shape, other.shape)
    total = one.shape[0] if one.shape else 1
    if _trimmed(one.shape) != _trimmed(other.shape) or (one.dtype != other.dtype and tolerance == 0):
        return TensorDifference(name, dtypes, shapes, None, (), total, None)
    rows: list[int] = []
    zero_rows: list[int] = []
    largest: float | None = None
    rows_at_once = max(1, _ROWS_STEP // max(1, one.row_bytes or one.size))
    for start in range(0, total, rows_at_once):
        count = min(rows_at_once, total - start)
        data = first.read(*_span(one, start, count))
        data_b = second.read(*_span(other, start, count))
        if one.dtype == other.dtype and data == data_b:
            continue
        is_exact = one.dtype == other.dtype and tolerance == 0
        if is_exact:
            differs = _different_rows(data, data_b, count)
        else:
            differs = _distant_rows(data, data_b, dtypes, count, tolerance)
        width, width_b = len(data) // count, len(data_b) // count
        for row in differs:
            rows.append(start + row)
            row_b = data_b[row * width_b : (row + 1) * width_b]
            if row_b.count(0) == width_b:
                zero_rows.append(start + row)
            else:
                gap = _largest_gap(data[row * width : (row + 1) * width], row_b, dtypes)
                largest = gap if largest is None else max(largest, gap or 0.0)
    if not rows and (across_layouts or one.shape == other.shape):
        return None
    return TensorDifference(name, dtypes, shapes, tuple(rows), tuple(zero_rows), total, largest)


def equal_tensors(first: Weights, one: Tensor, second: Weights, other: Tensor, advance: Progress) -> bool:
    """Whether two tensors of the same dtype and shape hold the same bytes."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return _equal_bytes(first, one.begin, second, other.begin, one.size, advance)


def equal_ranges(first: Weights, second: Weights, begin: int, end: int) -> bool:
    """Whether two weight files hold the same bytes from `begin` up to `end`."""
    return _equal_bytes(first, begin, second, begin, end - begin, lambda done: None)


def _equal_bytes(
    first: Weights, begin: int, second: Weights, other_begin: int, length: int, advance: Progress
) -> bool:
    if isinstance(first, SafetensorsWeights) and isinstance(second, SafetensorsWeights):
        pair = (first.descriptor(), begin, second.descriptor(), other_begin)
        return next(differing_chunks(*pair, length, advance), None) is None
    for position in range(0, length, _ROWS_STEP):
        stop = min(position + _ROWS_STEP, length)
        data = first.read(begin + position, begin + stop)
        if data != second.read(other_begin + position, other_begin + stop):
            return False
        advance(stop - position)
    return True


def _different_rows(data: bytes, data_b: bytes, rows: int) -> list[int]:
    """The rows whose bytes differ (no numpy: a patched checkpoint is compared without importing it)."""
    width = len(data) // rows
    starts = range(0, len(data), width)
    return [
        row
        for row, start in enumerate(starts)
        if data[start : start + width] != data_b[start : start + width]
    ]


def _distant_rows(
    data: bytes, data_b: bytes, dtypes: tuple[str, str], rows: int, tolerance: float
) -> list[int]:
    """The rows with a value that differs by more than the tolerance; equal infinities and NaNs are equal."""
    import numpy

    from surgery.checkpoint.formats.decode import decode

    numbers, numbers_b = decode(data, dtypes[0]), decode(data_b, dtypes[1])
    if numbers is None or numbers_b is None:
        return list(range(rows)) if dtypes[0] != dtypes[1] else _different_rows(data, data_b, rows)
    a, b = (each.astype(numpy.float64).reshape(rows, -1) for each in (numbers, numbers_b))
    with numpy.errstate(invalid="ignore"):
        close = (numpy.abs(a - b) <= tolerance * numpy.abs(a) + _ABSOLUTE_TOLERANCE) | (a == b)
    close |= numpy.isnan(a) & numpy.isnan(b)
    return [int(row) for row in numpy.flatnonzero(~close.all(axis=1))]


def _largest_gap(data: bytes, data_b: bytes, dtypes: tuple[str, str]) -> float | None:
    """The largest absolute difference of two values of one row; None where the dtype is not decoded."""
    import numpy

    from surgery.checkpoint.formats.decode import decode

    numbers, numbers_b = decode(data, dtypes[0]), decode(data_b, dtypes[1])
    if numbers is None or numbers_b is None or not len(numbers):
        return None
    with numpy.errstate(invalid="ignore"):
        gaps = numpy.abs(numbers.astype(numpy.float64) - numbers_b)
    return float(numpy.nan_to_num(gaps, nan=numpy.inf, posinf=numpy.inf).max())


def _span(tensor: Tensor, row: int, count: int) -> tuple[int, int]:
    if not tensor.shape:
        return tensor.begin, tensor.end
    return tensor.begin + row * tensor.row_bytes, tensor.begin + (row + count) * tensor.row_bytes


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _fill(descriptor: int, buffer: bytearray, position: int) -> None:
    done = os.preadv(descriptor, [buffer], position)
    while done < len(buffer):
        more = os.preadv(descriptor, [memoryview(buffer)[done:]], position + done)
        if not more:
            raise OSError("a file became shorter while it was compared")
        done += more
