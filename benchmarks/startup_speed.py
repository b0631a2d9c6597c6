"""Start to end wall time of `surgery --help`, `inspect` and `diff` on small input, each in a fresh process.

python benchmarks/startup_speed.py
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, run

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"


def build_small_folder(folder: Path) -> Path:
    """A component folder with one value layer of 64 rows and 24 columns."""
    folder.mkdir()
    configuration = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 24}
    (folder / "config.json").write_text(json.dumps(configuration))
    entry = {"dtype": "F32", "shape": [64, 24], "data_offsets": [0, 64 * 24 * 4]}
    text = json.dumps({f"{LAYER}.weight": entry}).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(range(1, 97)) * 64
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(content)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="surgery-benchmark-"))
    try:
        source = build_small_folder(scratch / "source")
        neurons = scratch / "neurons.json"
        neurons.write_text(json.dumps({"format": "surgery.neurons/1", "layers": {LAYER: [3, 7]}}))
        surgery = [sys.executable, "-m", "surgery"]
        patch = ["patch", str(source), str(neurons), "-o", str(scratch / "out"), "--force"]
        run([*surgery, *patch], check=True, stdout=DEVNULL)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "surgery --help": [*surgery, "--help"],
            "surgery inspect": [*surgery, "inspect", str(source)],
            "surgery diff": [*surgery, "diff", str(source), str(scratch / "out")],
            "surgery diff --plan": [
                *surgery,
                "diff",
                str(source),
                str(scratch / "out"),
                "--plan",
                str(neurons),
            ],
            "surgery patch --force": [*surgery, *patch],
        }
        for name, command in commands.items():
            seconds = []
            for _ in range(arguments.repeats):
                started = time.perf_counter()
                run(command, check=True, stdout=DEVNULL)
                seconds.append(time.perf_counter() - started)
            print(f"{name:<24} median {statistics.median(seconds):.3f} s, slowest {max(seconds):.3f} s")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
