"""Weights' bytes to numbers, without torch."""

from __future__ import annotations

import numpy

_NUMPY_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "U8": "u1",
    "I8": "i1",
    "BOOL": "u1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
}


def decode(data: bytes, dtype: str) -> numpy.ndarray | None:
    """The numbers in `data`, as a flat array of float32 (of float64 for F64 and integers); None if unknown.

    Args:
        data: little-endian values, as safetensors stores them.
        dtype: the safetensors dtype.
    """
    if dtype == "BF16":  # unknown to numpy, but its bits are the upper half of a float32
        halves = numpy.frombuffer(data, "<u2").astype("<u4")
        return (halves << 16).view("<f4")
    if dtype not in _NUMPY_DTYPES:
        return None
    numbers = numpy.frombuffer(data, _NUMPY_DTYPES[dtype])
    return numbers.astype(numpy.float32 if dtype in ("F16", "F32") else numpy.float64, copy=False)


def encode(numbers: numpy.ndarray, dtype: str) -> bytes:
    """Numbers as safetensors stores them, rounded to the nearest value of the dtype, ties to even.

    Args:
        numbers: floating, flat.
        dtype: F64, F32, F16 or BF16.

    Raises:
        KeyError: another dtype.
    """
    if dtype != "BF16":
        with numpy.errstate(over="ignore"):
            return numbers.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
    bits = numbers.astype("<f4").view("<u4")
    # half of the last kept place is added, less one where that place is even already: ties go to even
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()
