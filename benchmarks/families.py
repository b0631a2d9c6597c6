"""Every denoiser class of diffusers' pipelines: inspected, patched, loaded, and what the prompt still does.

    python benchmarks/families.py            print the table
    python benchmarks/families.py --write    write it into docs/checkpoints.md

1. Every pipeline class of the installed diffusers tells by its constructor which denoiser it has (a `unet` or
   a `transformer`; where a library is missing, it tells nothing).
2. A small random denoiser of that class (`small_families.py`) is saved as a pipeline's folder, whose
   `model_index.json` is made for every pipeline class in turn, and inspected.
3. What is accepted is patched and loaded by diffusers; then every row of every value layer is zeroed, and the
   output is compared between two prompts.

A pipeline whose denoiser class is not in `surgery.denoisers` is refused by name; nothing is built for it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, Path(__file__).resolve().parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from small_denoisers import SmallDenoiser, zero_value_layers  # noqa: E402
from small_families import SMALL  # noqa: E402

import surgery  # noqa: E402
from surgery.denoisers import DENOISERS, class_refusal  # noqa: E402

PAGE = ROOT / "docs" / "checkpoints.md"
REGION = re.compile(r"(?<=<!-- measured: families -->\n).*?(?=<!-- end measured -->)", re.S)
HEADS = ("denoiser class", "like", "pipelines", "verdict", "effect of the prompt", "way that is left to it")
SHOWN = 3  # pipelines named in a row
_CLASS = re.compile(r"\w*(?:UNet|Transformer|DiT|Prior)\w*")
# label of a small denoiser -> the pipelines that have one like it, the first that fits; a class's first label
# takes the rest
PIPELINES = {
    "SDXL": r"XL|Xl",
    "inpainting": r"StableDiffusion\w*Inpaint|PaintByExample",
    "x4 upscaler": r"StableDiffusionUpscale",
    "latent upscaler": r"LatentUpscale",
    "latent consistency": r"LatentConsistency",
    "unCLIP": r"StableUnCLIP",
    "GLIGEN": r"GLIGEN",
    "DeepFloyd IF": r"IF[A-Z]|UnCLIP",
    "Kandinsky 2.2": r"KandinskyV22",
    "Kandinsky 2.1": r"Kandinsky",
    "Kolors": r"Kolors",
    "AudioLDM": r"AudioLDM|MusicLDM",
    "Sana Sprint": r"SanaSprint",
    "Wan, image to video": r"WanImageToVideo",
    "VQ-Diffusion": r"VQDiffusion",
}


@dataclass
class Row:
    """A row of the table: pipelines that are answered alike."""

    kind: str
    label: str
    verdict: str
    pipelines: list[str] = field(default_factory=list)
    effect: str = ""
    text_left: str = ""


def text_pipelines() -> Iterator[tuple[str, str, list[str]]]:
    """Every pipeline class of diffusers with a denoiser: its name, the denoiser's class, its components."""
    import diffusers

    for name in sorted(dir(diffusers)):
        if not name.endswith("Pipeline") or "Onnx" in name or "Flax" in name:
            continue
        try:
            parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        except (AttributeError, ImportError, RuntimeError, TypeError, ValueError):
            continue
        for component, parameter in parameters.items():
            if component not in ("unet", "transformer", "image_unet"):
                continue
            kinds = [each for each in _CLASS.findall(str(parameter.annotation)) if hasattr(diffusers, each)]
            # a pipeline that animates a U-Net saves the animated one
            kinds.sort(key=lambda kind: kind != "UNetMotionModel")
            if kinds:
                yield name, kinds[0], [each for each in parameters if each != "self"]
                break


def label_of(kind: str, pipeline: str) -> str:
    """Which small denoiser is like the one of a pipeline."""
    own = [label for label, small in SMALL.items() if small.kind == kind]
    fits = (label for label, pattern in PIPELINES.items() if label in own and re.search(pattern, pipeline))
    return next(fits, own[0])


def measure(scratch: Path) -> list[Row]:
    """All rows."""
    asked: dict[str, list[tuple[str, list[str]]]] = {label: [] for label in SMALL}
    rows: dict[tuple[str, str, str], Row] = {}
    for pipeline, kind, components in text_pipelines():
        if kind in DENOISERS:
            asked[label_of(kind, pipeline)].append((pipeline, components))
        else:
            key = (kind, "", f"refused: {class_refusal(kind)}")
            rows.setdefault(key, Row(*key)).pipelines.append(pipeline)
    for label, pipelines in asked.items():
        small, folder = SMALL[label], scratch / label.replace(" ", "-")
        model = small.build()
        name = "unet" if "UNet" in small.kind else "transformer"
        model.save_pretrained(folder / name)
        for pipeline, components in pipelines or [("", ["tokenizer"])]:
            _declare(folder, pipeline, name, small, components)
            refusal = surgery.inspect_checkpoint(folder).refusal
            verdict = f"refused: {refusal.split(': ', 1)[1].split('; ')[0]}" if refusal else "patched"
            verdict = verdict.replace(f" ({pipeline})", "")
            row = rows.setdefault((small.kind, label, verdict), Row(small.kind, label, verdict))
            row.pipelines += [pipeline] if pipeline else []
            if not refusal and not row.effect:
                row.effect, row.text_left = _patched(folder, name, small)
    order = list(SMALL)
    return sorted(
        rows.values(),
        key=lambda row: (not row.label, order.index(row.label) if row.label else 0, row.verdict, row.kind),
    )


def _declare(folder: Path, pipeline: str, name: str, small: SmallDenoiser, components: list[str]) -> None:
    """The `model_index.json` of a pipeline; only its denoiser and its ControlNet are there."""
    index: dict[str, Any] = {"_class_name": pipeline, **{each: [None, None] for each in components}}
    index[name] = ["diffusers", small.kind]
    shutil.rmtree(folder / "controlnet", ignore_errors=True)
    if "controlnet" in components:  # it starts as a copy of the denoiser: one value layer stands for it
        index["controlnet"] = ["diffusers", "ControlNetModel"]
        (folder / "controlnet").mkdir()
        layer = {"mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight": torch.ones(4, 4)}
        save_file(layer, folder / "controlnet" / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text(json.dumps(index))


def _patched(folder: Path, name: str, small: SmallDenoiser) -> tuple[str, str]:
    """Patch a row, load, zero all rows; the prompt's effect before and after, and the text that is left."""
    import diffusers

    found = surgery.inspect_checkpoint(folder)
    layer = next(iter(found.copies[0].layers))
    output = folder.with_name(f"{folder.name}-patched")
    shutil.rmtree(output, ignore_errors=True)
    result = surgery.patch(folder, {layer: [0]}, output)
    loaded: Any = getattr(diffusers, small.kind).from_pretrained(output / name)
    assert not loaded.get_submodule(layer).weight[0].any(), f"{layer} of {small.kind} was not zeroed"
    whole = small.prompt_effect(loaded)
    assert zero_value_layers(loaded)
    left = small.prompt_effect(loaded)
    return f"{100 * whole:.1f} % -> {100 * left:.2g} %", "; ".join(result.text_paths) or "none"


def as_table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    for row in _merged(rows):
        names = ", ".join(f"`{name}`" for name in row.pipelines[:SHOWN])
        more = len(row.pipelines) - SHOWN
        pipelines = (f"{names} and {more} more" if more > 0 else names) or "none of its own"
        cells = (row.kind, row.label or "not built", pipelines, row.verdict, row.effect, row.text_left)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _merged(rows: list[Row]) -> Iterator[Row]:
    """The rows, those of classes that are refused by name for the same reason in one."""
    by_name: dict[str, Row] = {}
    for row in rows:
        if row.label:
            yield replace(row, kind=f"`{row.kind}`")
            continue
        reason = row.verdict.replace(f" {row.kind}", "")
        merged = by_name.setdefault(reason, replace(row, kind="", verdict=reason, pipelines=[]))
        merged.kind = f"{merged.kind}, `{row.kind}`".removeprefix(", ")
        merged.pipelines += row.pipelines
    yield from by_name.values()


def main() -> None:
    """Measure, then print or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/checkpoints.md")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        table = as_table(measure(Path(temporary)))
    if not write:
        print(table)
        return
    page, found = REGION.subn(lambda match: f"\n{table}\n\n", PAGE.read_text(encoding="utf-8"))
    assert found == 1, "the page has lost its region"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
