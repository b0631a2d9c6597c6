"""Full-size checkpoints for the benchmarks: real key sets and shapes, random bytes, no download.

The header comes from diffusers' own model classes on the meta device; the data is random.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import numpy

SIZES: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
}
DTYPES = {"f32": ("F32", 4), "f16": ("F16", 2)}
_STEP = 16 * 1024 * 1024


def build_unet_folder(folder: Path, size: str, dtype: str) -> Path:
    """Write a U-Net folder (config.json and one safetensors file) of real size.

    Args:
        folder: to be made.
        size: `sd15` (0.86 billion weights) or `sdxl` (2.57 billion).
        dtype: `f32` or `f16`.

    Returns:
        the folder.
    """
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES[size])
    folder.mkdir(parents=True)
    unet.save_config(folder)
    name, width = DTYPES[dtype]
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    position = 0
    for key, tensor in sorted(unet.state_dict().items()):
        end = position + tensor.numel() * width
        header[key] = {"dtype": name, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = numpy.random.default_rng(0)
    with (folder / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while position > 0:
            # Fresh numbers in every block: patch refuses a checkpoint that holds an edited row twice.
            block = random.integers(0, 256, _STEP, numpy.uint8)
            # the highest byte of each float keeps its sign and is small: none is infinite
            block[width - 1 :: width] = (block[width - 1 :: width] & 0x80) | 0x3C
            file.write(block[: min(position, _STEP)].tobytes())
            position -= _STEP
        file.flush()
        os.fsync(file.fileno())
    return folder


def build_in_own_process(folder: Path, size: str, dtype: str) -> Path:
    """As `build_unet_folder`, in a process of its own: a child's peak memory counts what its parent held."""
    arguments = [str(folder), size, dtype]
    code = "import sys, pathlib; from patch_checkpoints import build_unet_folder as build; "
    code += "build(pathlib.Path(sys.argv[1]), *sys.argv[2:])"
    run([sys.executable, "-c", code, *arguments], check=True, cwd=Path(__file__).parent)
    return folder


def write_neurons(path: Path, rows: int = 8) -> Path:
    """A `neurons.json` with some rows of every value layer of the paper's set (down and mid blocks)."""
    from surgery import inspect_checkpoint

    (copy,) = inspect_checkpoint(path.parent / "source").copies
    layers = {name: list(range(rows)) for name in copy.layers if not name.startswith("up_blocks")}
    path.write_text(json.dumps({"format": "surgery.neurons/1", "layers": layers}))
    return path
