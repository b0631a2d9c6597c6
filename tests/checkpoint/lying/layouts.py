"""Checkpoints of every layout, each patched once: the honest outputs that `lies` are told about.

The networks are as small as their block structure allows, for thousands of lies are told. One number of each
is not a number (NaN), so that two NaNs of different bits can be told apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from checkpoint_builders import (
    DOWN,
    MIDDLE,
    save_single_file,
    single_file_tensors,
    small_pipeline,
    small_unet,
    to_single_file_name,
    vae_and_text_tensors,
)
from safetensors.torch import load_file, save_file
from test_patch_transformers import small_hunyuan, small_pixart

import surgery

PIPELINE, COMPONENT, FILE = "pipeline", "component", "file"
SHARED_FACTOR = 1.01  # what `single_file_tensors` multiplies the EMA twin's tensors by
TINY = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4}
TINY_XL = {
    "block_out_channels": (8, 8, 16),
    "norm_num_groups": 4,
    "transformer_layers_per_block": (1, 1, 1),
}
ROWS = {DOWN: [0, 5], MIDDLE: [3, 7, 8]}


@dataclass(frozen=True)
class Layout:
    """A source, the rows to zero, and the honest output.

    Attributes:
        name: of the layout.
        source: the checkpoint that was patched, A of the proof.
        patched: the output, B of the proof; it lies in a folder of its own, with its manifest.
        rows: what was zeroed.
        kind: `pipeline` or `component` (folders), or `file`.
        originals: names of tensors, in every naming that is in use -> what the rows were before.
        is_patched: whether `surgery.patch` wrote the output; otherwise A and B are of different layouts, and
            only tensors can be compared.
    """

    name: str
    source: Path
    patched: Path
    rows: dict[str, list[int]]
    kind: str
    originals: dict[str, torch.Tensor] = field(repr=False)
    is_patched: bool = True

    @property
    def is_file(self) -> bool:
        """Whether the output is one file."""
        return self.kind == FILE


def tiny_unet(family: str = "SD1"):
    """A U-Net of the family's block structure, with a NaN in it."""
    unet = small_unet(family, **(TINY_XL if family == "SDXL base" else TINY))
    return with_nan(unet, "conv_norm_out.bias")


def with_nan(network, name: str):
    """The network, one number of the named tensor not a number any more."""
    with torch.no_grad():
        network.state_dict()[name].view(-1)[0] = float("nan")
    return network


def plain(folder: Path) -> Path:
    small_pipeline(folder / "parts", tiny_unet()).save_pretrained(folder / "source")
    return folder / "source"


def sharded(folder: Path) -> Path:
    small_pipeline(folder / "parts", tiny_unet()).save_pretrained(folder / "source", max_shard_size="200KB")
    return folder / "source"


def pickled(folder: Path) -> Path:
    source = plain(folder)
    for name in ("unet", "vae"):
        safe = source / name / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(safe), safe.with_suffix(".bin"))
        safe.unlink()
    return source


def half(folder: Path) -> Path:
    source = plain(folder)
    tiny_unet().half().save_pretrained(source / "unet", variant="fp16")
    return source


def extra(folder: Path) -> Path:
    """Also with what `patch` leaves out: a card, a picture's place, copies for other frameworks."""
    source = plain(folder)
    (source / "LICENSE").write_text("do what you like\n")
    (source / "README.md").write_text("a card\n")
    (source / "unet" / "model.onnx").write_bytes(b"\x08\x07" + bytes(64))
    torch.save(single_file_tensors(tiny_unet()), source / "v1-5.ckpt")
    save_single_file(source / "all.safetensors", single_file_tensors(tiny_unet(), ema=True))
    return source


def component(folder: Path) -> Path:
    tiny_unet().save_pretrained(folder / "source")
    return folder / "source"


def single_file(folder: Path) -> Path:
    tensors = single_file_tensors(tiny_unet(), ema=True)
    tensors |= vae_and_text_tensors(small_pipeline(folder / "parts", tiny_unet()))
    return save_single_file(folder / "source.safetensors", tensors)


def prefixless(folder: Path) -> Path:
    return save_single_file(folder / "source.safetensors", single_file_tensors(tiny_unet(), prefix=""))


def diffusers_file(folder: Path) -> Path:
    return save_single_file(folder / "source.safetensors", tiny_unet().state_dict())


def nested_pickle(folder: Path) -> Path:
    nested = {"state_dict": single_file_tensors(tiny_unet(), ema=True), "global_step": 7}
    torch.save({"state_dict": nested}, folder / "source.ckpt")
    return folder / "source.ckpt"


def sdxl(folder: Path) -> Path:
    return save_single_file(folder / "source.safetensors", single_file_tensors(tiny_unet("SDXL base")))


def pixart(folder: Path) -> Path:
    _pixart().save_pretrained(folder / "source")
    return folder / "source"


def hunyuan(folder: Path) -> Path:
    _hunyuan().save_pretrained(folder / "source", max_shard_size="20KB")
    return folder / "source"


def _pixart():
    return _with_biases(small_pixart)


def _hunyuan():
    return _with_biases(small_hunyuan)


def _with_biases(build: Callable):
    torch.manual_seed(0)
    network = build()
    for name, module in network.named_modules():
        if name.endswith("attn2.to_v"):
            torch.nn.init.normal_(module.bias)
    return with_nan(network, next(name for name in network.state_dict() if name.endswith("to_out.0.bias")))


# name -> builder of the source, kind, rows, the denoiser whose value layers the originals are
BUILDERS: dict[str, tuple[Callable[[Path], Path], str, dict[str, list[int]], Callable]] = {
    "plain": (plain, PIPELINE, ROWS, tiny_unet),
    "sharded": (sharded, PIPELINE, ROWS, tiny_unet),
    "pickled": (pickled, PIPELINE, ROWS, tiny_unet),
    "half": (half, PIPELINE, ROWS, tiny_unet),
    "extra": (extra, PIPELINE, ROWS, tiny_unet),
    "component": (component, COMPONENT, ROWS, tiny_unet),
    "single file": (single_file, FILE, ROWS, tiny_unet),
    "prefixless": (prefixless, FILE, ROWS, tiny_unet),
    "diffusers file": (diffusers_file, FILE, ROWS, tiny_unet),
    "ckpt": (nested_pickle, FILE, ROWS, tiny_unet),
    "SDXL": (sdxl, FILE, {MIDDLE: [3, 7, 8]}, lambda: tiny_unet("SDXL base")),
    "PixArt": (pixart, COMPONENT, {"transformer_blocks.1.attn2.to_v": [2, 5]}, _pixart),
    "Hunyuan": (hunyuan, COMPONENT, {"blocks.1.attn2.to_v": [2, 5]}, _hunyuan),
}
# A and B of different layouts: not what `patch` writes, but what the proof accepts. A patched folder against
# a single file is not among them: the file knows nothing of schedulers and vocabularies, which stay unproved.
ACROSS = ("folder to file", "naming to naming")
LAYOUTS = (*BUILDERS, *ACROSS)
# the names that the value layers have in every file of them; in all other layouts those of diffusers
IN_USE: dict[str, tuple[str, ...]] = {
    "extra": (),
    "single file": ("single file", "EMA"),
    "prefixless": ("prefixless",),
    "ckpt": ("single file", "EMA"),
    "SDXL": ("single file",),
    "PixArt": ("diffusers", "prefixless"),
    "Hunyuan": ("diffusers", "prefixless"),
    "folder to file": ("single file",),
}


def described(name: str) -> Layout:
    """What is known of a layout before it is built: enough to ask which lies apply."""
    if name in ACROSS:
        return Layout(name, Path(), Path(), ROWS, FILE, {}, is_patched=False)
    _, kind, rows, _ = BUILDERS[name]
    return Layout(name, Path(), Path(), rows, kind, {})


def make_layout(name: str, folder: Path) -> Layout:
    """Build a layout's source in `folder` and patch it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "patched").mkdir()
    if name in ACROSS:
        return _across(name, folder)
    build, kind, rows, network = BUILDERS[name]
    source = build(folder)
    patched = folder / "patched" / ("out.safetensors" if kind == FILE else "out")
    surgery.patch(source, rows, patched)
    return Layout(name, source, patched, rows, kind, _originals(network(), rows))


def _across(name: str, folder: Path) -> Layout:
    patched = folder / "patched" / "out.safetensors"
    unet = tiny_unet()
    state = unet.state_dict()
    originals = _originals(unet, ROWS)
    for layer, rows in ROWS.items():
        with torch.no_grad():
            state[f"{layer}.weight"][rows] = 0
    if name == "folder to file":
        source = plain(folder)
        tensors = single_file_tensors(unet) | vae_and_text_tensors(small_pipeline(folder / "again", unet))
    else:
        source = prefixless(folder)
        tensors = state
    save_file(tensors, patched, metadata={"format": "pt"})
    return Layout(name, source, patched, ROWS, FILE, originals, is_patched=False)


def namings(key: str) -> dict[str, str]:
    """Every name under which a value layer's tensor is in use, by what the naming is called."""
    flat = to_single_file_name(key)
    return {
        "diffusers": key,
        "single file": f"model.diffusion_model.{flat}",
        "prefixless": flat,
        "EMA": "model_ema.diffusion_model" + flat.replace(".", ""),
        "dotless": key.replace(".", ""),
        "dotless diffusers EMA": "model_ema." + key.replace(".", ""),
        "underscores": key.replace(".", "_"),
        "module": f"module.{key}",
        "compiled": f"_orig_mod.{key}",
        "unet": f"unet.{key}",
        "backup": f"{key}.orig",
        "denoiser inside denoiser": f"model.diffusion_model.{key}",
        "ControlNet": f"control_model.{flat}",
    }


def _originals(network, rows: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in network.state_dict().items():
        if name.rpartition(".")[0] not in rows:
            continue
        for naming, other in namings(name).items():
            factor = SHARED_FACTOR if naming == "EMA" else 1
            found[other] = tensor.detach() * factor if factor != 1 else tensor.detach().clone()
    return found


def manifest_path(patched: Path) -> Path:
    """Where `patch` wrote the manifest of an output."""
    if patched.is_dir():
        return patched / "surgery-manifest.json"
    return patched.with_name(patched.name + ".surgery-manifest.json")


def read_json(path: Path):
    """A JSON file's value."""
    return json.loads(path.read_text(encoding="utf-8"))
