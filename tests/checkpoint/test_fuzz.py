"""Damaged weight files: what we read, the libraries read alike; the rest is refused in one line.

`benchmarks/fuzz.py --count 10000` runs many more, and measures.
"""

from __future__ import annotations

import random

import pytest
from mutations import assert_as_library, mutated, read, seeds

SEEDS = seeds()
COUNT = 80  # per kind of file


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SEEDS)
def test_damaged_file_is_read_as_the_library_reads_it_or_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(SEEDS[name])
    weights = read(path)
    assert weights is not None
    assert_as_library(path, weights)
    chance = random.Random(f"seed 1 {name}")
    were_read = 0
    for number in range(COUNT):
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(mutated(SEEDS[name], chance))
        weights = read(path)
        if weights is not None:
            were_read += 1
            assert_as_library(path, weights)
    assert 0 < were_read < COUNT  # the damages are neither all harmless nor all fatal
