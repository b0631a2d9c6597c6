"""Compare two tensors row by row, by bytes or by numbers, without loading either file.

Equal tensors are recognized by their bytes (`surgery.checkpoint.formats.same_bytes`); only those that differ
are looked at here.
"""

from __future__ import annotations

from dataclasses import dataclass

from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import Weights

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
    if not one.has_whole_rows or not other.has_whole_rows:
        return _compare_as_one_row(first, one, second, other, name)
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
            differs = distant_rows(data, data_b, dtypes, count, tolerance)
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


def _compare_as_one_row(
    first: Weights, one: Tensor, second: Weights, other: Tensor, name: str
) -> TensorDifference | None:
    """Rows of 4 or 6 bits a value may begin within a byte: the tensor counts as one row, of all its bytes."""
    differs, is_zero = one.size != other.size, True
    for position in range(0, max(one.size, other.size), _ROWS_STEP):
        data = first.read(one.begin + position, min(one.begin + position + _ROWS_STEP, one.end))
        data_b = second.read(other.begin + position, min(other.begin + position + _ROWS_STEP, other.end))
        differs = differs or data != data_b
        is_zero = is_zero and not data_b.strip(b"\0")
    if not differs and one.dtype == other.dtype and one.shape == other.shape:
        return None
    zero_rows = (0,) if is_zero else ()
    return TensorDifference(
        name, (one.dtype, other.dtype), (one.shape, other.shape), (0,), zero_rows, 1, None
    )


def _different_rows(data: bytes, data_b: bytes, rows: int) -> list[int]:
    """The rows whose bytes differ (no numpy: a patched checkpoint is compared without importing it)."""
    width = len(data) // rows
    starts = range(0, len(data), width)
    return [
        row
        for row, start in enumerate(starts)
        if data[start : start + width] != data_b[start : start + width]
    ]


def distant_rows(
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
        # infinity is within any share of itself: only finite numbers can be near each other
        near = numpy.abs(a - b) <= tolerance * numpy.abs(a) + _ABSOLUTE_TOLERANCE
        close = (near & numpy.isfinite(a) & numpy.isfinite(b)) | (a == b)
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
