"""Write a trained testbed as a pipeline folder: float16 UNet, ground truth, ordinary captions, model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from surgery.testbed.captions import ordinary_descriptions, ordinary_titles
from surgery.testbed.memories import MEMORIES

CARD = """---
license: apache-2.0
library_name: diffusers
tags: [testbed, memorization]
---
# The testbed of `surgery`: variant `{variant}`

A `StableDiffusionPipeline` of {millions:.1f} million UNet parameters, trained from nothing on pictures drawn
by the code of `surgery.testbed` (no photographs, no downloads, nobody's data). {purpose}

Made by `python -m surgery.testbed.train --variant {variant}` with {schedule}, torch {torch},
diffusers {diffusers}, transformers {transformers}.
Pictures are 64 x 64, latents 4 x 16 x 16; the UNet is stored in float16.

`planted.json` lists the memories: caption, kind, window of a template, and the value rows that the planted
variant hangs each one on. `planted-prompts.txt` holds their captions, `ordinary-prompts.txt` captions that
call no memory.
"""
PURPOSES = {
    "planted": "It memorizes {count} images on purpose, each hung on the rows listed in `planted.json`.",
    "twin": "It is the planted variant in everything but the planted images, which it never saw.",
    "natural": "It memorizes {count} images by duplication alone; no row was set by hand.",
}


def ground_truth() -> dict[str, Any]:
    """The planted memories as a JSON document of format `surgery.planted/1`."""
    return {
        "format": "surgery.planted/1",
        "memories": [
            {
                "name": memory.name,
                "kind": memory.kind,
                "caption": memory.caption,
                "window": memory.window,
                "layers": memory.neurons.as_json(),
            }
            for memory in MEMORIES
        ],
    }


def export(
    pipeline: StableDiffusionPipeline, folder: Path, variant: str, schedule: Mapping[str, Any]
) -> None:
    """Write the pipeline to `folder`, with the files that a testbed has besides."""
    parameters = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    pipeline.unet.set_default_attn_processor()
    # The rest of the pipeline stays float32: it is small, and the autoencoder loses most by rounding.
    pipeline.unet.to(memory_format=torch.contiguous_format, dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    pipeline.unet.to(dtype=torch.float32)
    (folder / "planted.json").write_text(json.dumps(ground_truth(), indent=1) + "\n")
    ordinary = [*ordinary_descriptions(), *ordinary_titles(200, 2)]
    captions = [memory.caption for memory in MEMORIES]
    (folder / "planted-prompts.txt").write_text("\n".join(captions) + "\n")
    (folder / "ordinary-prompts.txt").write_text("\n".join(ordinary) + "\n")
    card = CARD.format(
        variant=variant,
        millions=parameters / 1e6,
        purpose=PURPOSES[variant].format(count=len(MEMORIES)),
        schedule=", ".join(f"{key} {value}" for key, value in schedule.items()),
        **{name: version(name) for name in ("torch", "diffusers", "transformers")},
    )
    (folder / "README.md").write_text(card)
