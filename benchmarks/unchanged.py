"""One hash per result: run it before and after a change that should change nothing, and compare.

    export PYTHONHASHSEED=0  # a library writes a set into tokenizer_config.json
    python benchmarks/unchanged.py > after.txt
    PYTHONPATH=../older-checkout python benchmarks/unchanged.py > before.txt
    diff before.txt after.txt

Printed, one line each: the sha256 of every file that `surgery.patch` writes from checkpoints of many layouts
(sharded, half precision beside full, pickles, single files with an EMA twin, further copies at the root), of
each manifest, of what `surgery.diff` says with and without the plan, and of what `surgery.localize` finds on
the embedded testbed with each criterion and strategy. Only public functions are used, so that an older
checkout can be asked the same. Versions, seconds and paths are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMED = {"seconds", "seconds_by_stage", "versions", "model"}  # what differs from run to run, or says where


def layouts(folder: Path) -> dict[str, tuple[Path, dict[str, list[int]]]]:
    """Name -> (checkpoint, rows to zero), built from the tests' small random models."""
    sys.path.insert(0, str(ROOT / "tests" / "checkpoint"))
    import checkpoint_builders as builders  # type: ignore[import-not-found]
    import torch

    rows = {builders.DOWN: [0, 31], builders.MIDDLE: [3, 7, 8]}
    pipeline = builders.small_pipeline(folder / "parts")
    made: dict[str, Path] = {}

    def saved(name: str, save: Callable[[Path], Any]) -> Path:
        made[name] = folder / name / "source"
        made[name].parent.mkdir()
        save(made[name])
        return made[name]

    saved("plain", pipeline.save_pretrained)
    saved("sharded", lambda path: pipeline.save_pretrained(path, max_shard_size="300KB"))
    saved("pickled", lambda path: pipeline.save_pretrained(path, safe_serialization=False))
    half = saved("half", pipeline.save_pretrained)
    builders.small_unet().half().save_pretrained(half / "unet", variant="fp16")
    extra = saved("extra", pipeline.save_pretrained)
    (extra / "LICENSE").write_text("do what you like\n")
    (extra / "README.md").write_text("a card\n")
    (extra / "model.onnx").write_bytes(b"\x08\x07")
    builders.save_single_file(extra / "all.safetensors", builders.single_file_tensors(builders.small_unet()))
    saved("component", builders.small_unet().save_pretrained)
    for family in builders.FAMILIES:
        path = folder / family.replace(" ", "-") / "source.safetensors"
        path.parent.mkdir()
        tensors = builders.single_file_tensors(builders.small_unet(family), ema=True)
        made[path.parent.name] = builders.save_single_file(path, tensors)
    ckpt = folder / "ckpt" / "source.ckpt"
    ckpt.parent.mkdir()
    nested = {"state_dict": builders.single_file_tensors(builders.small_unet(), ema=True), "global_step": 7}
    torch.save({"state_dict": nested}, ckpt)
    made["ckpt"] = ckpt
    middle = {builders.MIDDLE: rows[builders.MIDDLE]}
    return {name: (path, middle if name.startswith("SDXL") else rows) for name, path in made.items()}


def patched(folder: Path) -> dict[str, Any]:
    """Every file written from every layout, and what the proof says of it."""
    import surgery
    from surgery.commands.diff import as_json

    found: dict[str, Any] = {}
    for name, (source, rows) in layouts(folder).items():
        output = source.with_name("out.safetensors" if source.is_file() else "out")
        result = surgery.patch(source, rows, output, sha256=True)
        files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
        for path in files:
            if not path.name.endswith("surgery-manifest.json"):
                shown = path.relative_to(output).as_posix() if output.is_dir() else path.name
                found[f"patch {name}: {shown}"] = path.read_bytes()
        found[f"patch {name}: manifest"] = result.manifest
        found[f"diff {name}"] = as_json(surgery.diff(source, output))
        found[f"diff --plan {name}"] = as_json(surgery.diff(source, output, plan=rows))
    return found


def localized(prompts: int) -> dict[str, Any]:
    """What both strategies find under both criteria for the first planted captions and an ordinary one."""
    import surgery
    from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth, read_ordinary_prompts

    captions = [memory.caption for memory in read_ground_truth(PLANTED_FOLDER)][:prompts]
    captions.append(read_ordinary_prompts(PLANTED_FOLDER)[0])
    found = {}
    for criterion in ("seeds-diverge", "noise-changed"):
        for strategy in ("fast", "reference"):
            settings = surgery.LocalizeSettings(criterion=criterion, strategy=strategy)
            document = surgery.localize(str(PLANTED_FOLDER), captions, settings=settings).as_json()
            found[f"localize {criterion} {strategy}"] = document
    return found


def without_times(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if name not in TIMED}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def sha256(value: Any) -> str:
    """Of bytes, or of a JSON value."""
    if not isinstance(value, bytes):
        value = json.dumps(without_times(value), sort_keys=True).encode()
    return hashlib.sha256(value).hexdigest()


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=2, help="planted captions to localize; 0: none")
    parser.add_argument(
        "--keep", metavar="FILE", help="write the JSON values themselves here, to look closer"
    )
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = patched(Path(temporary))
    if parsed.prompts:
        found |= localized(parsed.prompts)
    for name, value in found.items():
        print(f"{sha256(value)}  {name}")
    if parsed.keep:
        plain = {name: without_times(value) for name, value in found.items() if not isinstance(value, bytes)}
        Path(parsed.keep).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
