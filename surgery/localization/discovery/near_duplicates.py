"""Near-duplicates among many hashes, without comparing all pairs: multi-index hashing.

Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (CVPR 2012):

1. Equal hashes are one entry, with the number of pictures that have it.
2. The 64 bits are cut into 4 bands of 16. Two hashes that differ in at most r bits differ in at most
   floor(r / 4) bits of some band (pigeonhole).
3. In each band the entries are sorted by their 16 bits. For every pattern of at most floor(r / 4) flipped
   bits, each entry is joined with those whose band is its own with the pattern flipped; only these candidates
   are compared in full. A pair that an earlier band gave already is left out.

Exact: the pairs are those of a comparison of all with all. The expected cost for n unrelated hashes is
n^2 x 4 x patterns / 65,536 comparisons: at r = 8, where a band may differ in 2 bits and there are 137
patterns, 1 in 120 of all pairs. Memory is bounded by the entries plus `AT_ONCE` candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from surgery.errors import UsageError
from surgery.localization.discovery.hashes import BITS, distances

BANDS = 4
BAND_BITS = BITS // BANDS
# Beyond it a band differs in 4 bits or more, and most pairs are candidates; strangers are as near anyway.
LARGEST_RADIUS = 15
AT_ONCE = 1 << 22  # candidates held at one time


@dataclass(frozen=True)
class NearDuplicates:
    """How often each picture occurs, copies that were changed a little included.

    Attributes:
        copies: int64 [pictures]: how many OTHER pictures lie within the radius.
        pairs: int64 [pairs, 2]: positions of near hashes, the smaller first; one picture stands for all that
            have its very hash.
        radius: in bits.
    """

    copies: numpy.ndarray
    pairs: numpy.ndarray
    radius: int


def near_duplicates(hashes: numpy.ndarray, radius: int) -> NearDuplicates:
    """Count the near-duplicates of every hash.

    Args:
        hashes: uint64 [pictures].
        radius: hashes that differ in so many bits or fewer are near.

    Raises:
        UsageError: the radius is negative or too large for this search.
    """
    if not 0 <= radius <= LARGEST_RADIUS:
        raise UsageError("radius", f"{radius} bits", f"give 0 to {LARGEST_RADIUS}")
    entries, first, entry_of, count = numpy.unique(
        hashes, return_index=True, return_inverse=True, return_counts=True
    )
    found = [numpy.empty((0, 2), dtype=numpy.int64), *_near_pairs(entries, radius)]
    pairs = numpy.concatenate(found)
    copies = count.astype(numpy.int64) - 1
    numpy.add.at(copies, pairs[:, 0], count[pairs[:, 1]])
    numpy.add.at(copies, pairs[:, 1], count[pairs[:, 0]])
    named = numpy.sort(first[pairs], axis=1)
    return NearDuplicates(copies[entry_of.reshape(-1)], named[numpy.lexsort(named.T[::-1])], radius)


def _near_pairs(entries: numpy.ndarray, radius: int) -> Iterator[numpy.ndarray]:
    """Pairs of positions (smaller first) of different entries within the radius, each once."""
    flips = radius // BANDS
    keys = [_band(entries, band) for band in range(BANDS)]
    for band, key in enumerate(keys):
        order = numpy.argsort(key, kind="stable")
        # start of each of the 65,536 buckets in the sorted order
        starts = numpy.searchsorted(key[order], numpy.arange((1 << BAND_BITS) + 1))
        for pattern in _patterns(flips):
            wanted = key ^ numpy.int64(pattern)
            low, high = starts[wanted], starts[wanted + 1]
            for one, other in _joined(order, low, high):
                kept = one < other
                one, other = one[kept], other[kept]
                near = distances(entries[one], entries[other]) <= radius
                one, other = one[near], other[near]
                for earlier in keys[:band]:
                    fresh = _ones(earlier[one] ^ earlier[other]) > flips
                    one, other = one[fresh], other[fresh]
                if len(one):
                    yield numpy.stack([one, other], axis=1)


def _joined(
    order: numpy.ndarray, low: numpy.ndarray, high: numpy.ndarray
) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
    """Every entry with each of `order[low:high]` of it, some at a time."""
    sizes = high - low
    ends = numpy.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(numpy.searchsorted(ends, before + AT_ONCE, side="right")))
        some = sizes[start:stop]
        one = numpy.repeat(numpy.arange(start, stop), some)
        # 0, 1, 2, ... within each entry's own candidates
        within = numpy.arange(len(one)) - numpy.repeat(numpy.cumsum(some) - some, some)
        yield one, order[numpy.repeat(low[start:stop], some) + within]
        start = stop


def _band(entries: numpy.ndarray, band: int) -> numpy.ndarray:
    shifted = entries >> numpy.uint64(band * BAND_BITS)
    return (shifted & numpy.uint64((1 << BAND_BITS) - 1)).astype(numpy.int64)


def _patterns(flips: int) -> Iterator[int]:
    """Every number of 16 bits with at most so many ones."""
    for ones in range(flips + 1):
        for places in itertools.combinations(range(BAND_BITS), ones):
            yield sum(1 << place for place in places)


def _ones(values: numpy.ndarray) -> numpy.ndarray:
    return distances(values.astype(numpy.uint64), numpy.zeros(1, dtype=numpy.uint64))
