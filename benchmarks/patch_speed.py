"""`surgery patch` against `cp` on a full-size U-Net, side by side in one run, and against diffusers.

    python benchmarks/patch_speed.py --size sdxl --dtype f32 --scratch /path/with/45/GB
    python benchmarks/patch_speed.py --size sd15 --dtype f32 --diffusers

Every run starts after `sync`. `cp` alone leaves its data in memory; patch does not return before the data is
on the disk, so `cp` followed by `sync FILE` is what it is compared with. Both are printed. CPU seconds (user
and system) tell what remains of a difference on a machine that does other work too. The diffusers run loads
the U-Net, zeroes the same rows and calls `save_pretrained`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from patch_checkpoints import DTYPES, SIZES, build_in_own_process, write_neurons

DIFFUSERS = """
import json, sys, torch
from diffusers import UNet2DConditionModel
source, neurons, output = sys.argv[1:]
unet = UNet2DConditionModel.from_pretrained(source, torch_dtype=torch.float32)
with torch.no_grad():
    for layer, rows in json.load(open(neurons))["layers"].items():
        unet.get_submodule(layer).weight[rows] = 0
unet.save_pretrained(output)
"""


def measure(*commands: list[str]) -> tuple[list[float], float, float]:
    """Run commands one after the other: the seconds after each, the peak RSS in MB, and CPU seconds."""
    subprocess.run(["sync"], check=True)
    started, seconds, peak, processor = time.perf_counter(), [], 0, 0.0
    for command in commands:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command[0]} failed with status {process.returncode}")
        seconds.append(time.perf_counter() - started)
        peak = max(peak, usage.ru_maxrss)
        processor += usage.ru_utime + usage.ru_stime
    return seconds, peak / 1024, processor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="sdxl")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--diffusers", action="store_true", help="also load, edit and save through diffusers")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="surgery-benchmark-", dir=arguments.scratch))
    try:
        source = build_in_own_process(scratch / "source", arguments.size, arguments.dtype)
        neurons = write_neurons(scratch / "neurons.json")
        weights = "diffusion_pytorch_model.safetensors"
        surgery = [
            sys.executable,
            "-m",
            "surgery",
            "patch",
            str(source),
            str(neurons),
            "-o",
            str(scratch / "out"),
        ]
        runs = {
            "cp": [["cp", "-r", str(source), str(scratch / "out")], ["sync", str(scratch / "out" / weights)]],
            "surgery patch": [surgery],
            "surgery patch --sha256": [[*surgery, "--sha256"]],
        }
        if arguments.diffusers:
            edit = [sys.executable, "-c", DIFFUSERS, str(source), str(neurons), str(scratch / "out")]
            runs["diffusers load + edit + save"] = [edit, ["sync", str(scratch / "out" / weights)]]
        results: dict[str, list[tuple[list[float], float, float]]] = {name: [] for name in runs}
        for _ in range(arguments.repeats):
            for name, commands in runs.items():
                results[name].append(measure(*commands))
                shutil.rmtree(scratch / "out")
        gigabytes = (source / weights).stat().st_size / 1e9
        print(f"{arguments.size} {arguments.dtype}, {gigabytes:.2f} GB, median of {arguments.repeats}")
        copied = statistics.median(seconds[0] for seconds, *_ in results["cp"])
        durable = statistics.median(seconds[-1] for seconds, *_ in results["cp"])
        print(f"{'':<30} {'seconds':>9} {'x cp+sync':>10} {'x cp':>6} {'GB/s':>6} {'RSS MB':>7} {'CPU s':>6}")
        for name, measured in results.items():
            seconds = statistics.median(each[-1] for each, *_ in measured)
            peak = max(peak for _, peak, _ in measured)
            processor = statistics.median(each for *_, each in measured)
            label = "cp + sync" if name == "cp" else name
            print(
                f"{label:<30} {seconds:>9.2f} {seconds / durable:>10.2f} {seconds / copied:>6.2f} "
                f"{gigabytes / seconds:>6.2f} {peak:>7.0f} {processor:>6.2f}"
            )
        print(f"{'cp alone (not yet on disk)':<30} {copied:>9.2f}")
        spread = [
            f"{name}: {[round(each[-1], 1) for each, *_ in measured]}" for name, measured in results.items()
        ]
        print("all runs:", "; ".join(spread))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
