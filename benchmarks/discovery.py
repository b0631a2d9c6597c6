"""Discovery: how few forwards find the memories of a corpus, and how few ordinary prompts end with neurons.

    python benchmarks/discovery.py scan        [--variant planted|natural] [--titles N] [--descriptions N]
    python benchmarks/discovery.py one-in-many [--variant ...] [--captions 10000]
    python benchmarks/discovery.py stops       [--variant ...] [--titles N] [--descriptions N]
    python benchmarks/discovery.py simulate    [--variant ...] [--titles N] [--captions 10000] [--runs 200]
    python benchmarks/discovery.py second-look [--variant ...] [--titles N] [--descriptions N]
    python benchmarks/discovery.py hashes      [--pictures 400] [--hashes 100000]

All ordinary captions are held out: titles that the testbed's list does not hold, and descriptions that the
calibration did not run through the denoiser. `--calibration FILE` keeps the calibration between runs.

- `scan` looks at the held-out and the memorized captions twice, by the sequential test and with all seeds:
  seeds a caption, and which captions above the threshold the test stopped early.
- `stops` asks what other stops and chances of a miss would make of the same captions, from one look at all
  pairs of their seeds.
- `one-in-many` is the real thing: one memorized caption at a random place among ordinary titles; 10,000 of
  them take about 25,000 sample-forwards.
- `simulate` draws corpora of that size from the measured scores of the held-out titles (each with its scores
  over the first seeds), puts one memorized caption into each, and runs the stops on them.
- `second-look` counts the held-out ordinary prompts that pass the gate, those that also pass the second look
  and the correction over the corpus, and the memorized ones that are lost. Nothing is searched.
- `hashes` needs no model: near-duplicates found among changed copies, false pairs among strangers, and the
  time for a large number of hashes.
"""

from __future__ import annotations

import argparse

import torch
from discovery_hashes import run_hashes
from discovery_scan import run_one_in_many, run_scan
from discovery_second_look import run_second_look
from discovery_stops import DETECTOR, run_simulation, run_stops

from surgery.localization.discovery.settings import ScanSettings

RUNS = {
    "scan": run_scan,
    "stops": run_stops,
    "one-in-many": run_one_in_many,
    "simulate": run_simulation,
    "second-look": run_second_look,
    "hashes": run_hashes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--variant", choices=("planted", "natural"), default="planted")
    parser.add_argument("--titles", type=int, default=200)
    parser.add_argument("--descriptions", type=int, default=100)
    parser.add_argument("--captions", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--miss", type=float, default=ScanSettings().miss)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--hashes", type=int, default=100_000)
    parser.add_argument("--detector", default=DETECTOR, help="of `scan`")
    parser.add_argument("--calibration", metavar="FILE", help="read from here, or written here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS[arguments.what](arguments)


if __name__ == "__main__":
    main()
