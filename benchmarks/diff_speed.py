"""`surgery diff` against `cmp` on two equal full-size files, side by side in one run.

python benchmarks/diff_speed.py --size sdxl --dtype f16 --scratch /path/with/12/GB
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from patch_checkpoints import DTYPES, SIZES, build_in_own_process
from patch_speed import measure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="sdxl")
    parser.add_argument("--dtype", choices=DTYPES, default="f16")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="surgery-benchmark-", dir=arguments.scratch))
    try:
        source = build_in_own_process(scratch / "source", arguments.size, arguments.dtype)
        other = shutil.copytree(source, scratch / "other")
        weights = "diffusion_pytorch_model.safetensors"
        commands = {
            "cmp": ["cmp", str(source / weights), str(other / weights)],
            "surgery diff": [sys.executable, "-m", "surgery", "diff", str(source), str(other)],
        }
        results: dict[str, list[tuple[list[float], float, float]]] = {name: [] for name in commands}
        for (
            command
        ) in commands.values():  # a first round brings both files into the page cache as far as they fit
            measure(command)
        for _ in range(arguments.repeats):
            for name, command in commands.items():
                results[name].append(measure(command))
        gigabytes = (source / weights).stat().st_size / 1e9
        print(f"{arguments.size} {arguments.dtype}, 2 x {gigabytes:.2f} GB, median of {arguments.repeats}")
        fastest = statistics.median(seconds[-1] for seconds, *_ in results["cmp"])
        for name, measured in results.items():
            seconds = statistics.median(each[-1] for each, *_ in measured)
            peak = max(peak for _, peak, _ in measured)
            processor = statistics.median(each for *_, each in measured)
            ratio = f"{seconds / fastest:>5.2f} x cmp"
            print(f"{name:<14} {seconds:>7.2f} s  {ratio}  {peak:>5.0f} MB RSS  {processor:>5.2f} s CPU")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
