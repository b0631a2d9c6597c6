"""A perceptual hash: 64 bits of a picture that survive scaling, recompression, small shifts and crops.

1. Gray, scaled to 32 x 32 (box filter, so that every pixel counts).
2. Two-dimensional cosine transform (DCT-II); the 64 lowest frequencies but the mean, by their distance from
   it.
3. A bit is 1 where its coefficient lies above the median of the 64.

The number of bits in which two hashes differ (Hamming distance) says how unlike two pictures are: about 32
for strangers, few for copies. A picture without features (nearly one color) has no hash: its bits would be
rounding. The idea is the classical one of perceptual hashing (Zauner, "Implementation and Benchmarking of
Perceptual Image Hash Functions", 2010). Not seen: mirrored copies, large crops; color is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from surgery.errors import UsageError

SIDE = 32
BITS = 64
# Gray levels out of 255; the standard deviation of a picture below which it has no features.
FEATURELESS = 3.0

_U64 = numpy.uint64
_PAIRS, _FOURS = _U64(0x5555555555555555), _U64(0x3333333333333333)
_EIGHTS, _SUM = _U64(0x0F0F0F0F0F0F0F0F), _U64(0x0101010101010101)


def picture_hash(image: Any) -> int | None:
    """The hash of a PIL image as a number of 64 bits; None for a picture without features."""
    from PIL import Image

    gray = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    values = numpy.asarray(gray, dtype=numpy.float64)
    if values.std() < FEATURELESS:
        return None
    transform, (rows, columns) = _cosines(), _lowest()
    coefficients = (transform @ values @ transform.T)[rows, columns]
    bits = coefficients > numpy.median(coefficients)
    return int.from_bytes(numpy.packbits(bits).tobytes(), "big")


def file_hash(path: Path) -> int | None:
    """The hash of a picture file.

    Raises:
        UsageError: the file is missing or is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            # A large JPEG is decoded at a fraction of its size: most of the time goes there.
            opened.draft("L", (4 * SIDE, 4 * SIDE))
            return picture_hash(opened)
    except FileNotFoundError:
        raise UsageError(path, "no such picture", "check the path") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(path, f"cannot be read as a picture ({error})", "remove it, or repair it") from None


def distances(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """Hamming distances between hashes, uint64 arrays that broadcast: uint8, 0 to 64."""
    ones = first ^ second  # numpy counts bits itself from 2.0 on; this counts in pairs, fours, eights
    ones = ones - ((ones >> _U64(1)) & _PAIRS)
    ones = (ones & _FOURS) + ((ones >> _U64(2)) & _FOURS)
    ones = (ones + (ones >> _U64(4))) & _EIGHTS
    return ((ones * _SUM) >> _U64(56)).astype(numpy.uint8)


def as_array(hashes: Iterable[int]) -> numpy.ndarray:
    """Hashes as uint64 [count]."""
    return numpy.fromiter(hashes, dtype=numpy.uint64)


@cache
def _cosines() -> numpy.ndarray:
    """The orthogonal DCT-II matrix, float64 [32, 32]: row k holds frequency k."""
    places = numpy.arange(SIDE)
    matrix = numpy.cos(numpy.pi * numpy.outer(places, places + 0.5) / SIDE) * numpy.sqrt(2 / SIDE)
    matrix[0] /= numpy.sqrt(2)
    return matrix


@cache
def _lowest() -> tuple[numpy.ndarray, numpy.ndarray]:
    """Rows and columns of the 64 lowest frequencies, the mean left out."""

    def order() -> Iterator[tuple[int, int]]:
        pairs = ((row, column) for row in range(SIDE) for column in range(SIDE))
        yield from sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))

    chosen = list(order())[1 : BITS + 1]
    rows, columns = zip(*chosen, strict=True)
    return numpy.array(rows), numpy.array(columns)
