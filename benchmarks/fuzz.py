"""Damage valid weight files again and again: how many are read, how many refused, at what cost?

    python benchmarks/fuzz.py --count 10000

What is read is compared, byte for byte, with what torch and safetensors read. Printed, per kind of file: how
many were read and refused, the slowest one; at the end the peak memory of the process (torch included).
Exits with 1 when an exception other than a refusal escapes, a library reads something else, a file takes more
than 5 seconds, or the process more than 500 MB. A file that fails is kept in the working folder.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_SECONDS = 5.0
MOST_MEGABYTES = 500.0


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def main() -> int:
    """Parse, fuzz, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="damaged files, of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "checkpoint"))
    mutations = importlib.import_module("mutations")

    warnings.simplefilter("ignore")
    failures = 0
    worst_ever = 0.0
    kinds = mutations.seeds()
    for name, content in kinds.items():
        chance = random.Random(f"{parsed.seed} {name}")
        counts = {"read": 0, "refused": 0}
        worst = 0.0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            for number in range(parsed.count // len(kinds)):
                damaged = mutations.mutated(content, chance)
                path.unlink(missing_ok=True)  # the last one may still be mapped
                path.write_bytes(damaged)
                started = time.perf_counter()
                try:
                    weights = mutations.read(path)
                    worst = max(worst, time.perf_counter() - started)
                    if weights is not None:
                        mutations.assert_as_library(path, weights)
                    counts["read" if weights is not None else "refused"] += 1
                except Exception:
                    failures += 1
                    kept = Path(f"fuzz-{parsed.seed}-{number}-{name}")
                    kept.write_bytes(damaged)
                    print(f"{kept}:\n{traceback.format_exc()}", flush=True)
        worst_ever = max(worst_ever, worst)
        print(
            f"{name:20} {counts['read']:6} read {counts['refused']:6} refused, slowest {worst:.2f} s",
            flush=True,
        )
    peak = peak_megabytes()
    print(f"{failures} failures, slowest {worst_ever:.2f} s, peak {peak:.0f} MB")
    return int(failures > 0 or worst_ever > MOST_SECONDS or peak > MOST_MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
