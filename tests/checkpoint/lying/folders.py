"""Lies about folders: what lies beside the weights, links, files added, changed and removed."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file

from lying.layouts import COMPONENT, Layout, read_json
from lying.raw import (
    read_raw,
)
from lying.table import (
    PROMPT,
    NotHere,
    Tell,
    Told,
    Words,
    as_pickle,
    as_safetensors,
    has_left_out,
    is_any_folder,
    is_folder,
    is_pipeline,
    is_sharded,
    is_whole,
    lie,
    original_weights,
    restored,
    some_value,
)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not be there yet."""
    if path.exists():
        raise NotHere
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def denoiser_folder(random: random.Random, told: Told) -> Path:
    """A folder with denoiser weights that a component loads."""
    found = sorted({value.path.parent for value in told.value_tensors()})
    found = [folder for folder in found if folder != told.path or told.layout.kind == "component"]
    return random.choice(found)


def some_folder(random: random.Random, told: Told) -> Path:
    """The output's folder or a component's."""
    return random.choice([told.path, *sorted({file.parent for file in told.files()})])


def as_archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights.safetensors", content)
    return buffer.getvalue()


def as_arrays(tensors: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    numpy.savez(buffer, *[tensor.numpy() for tensor in tensors.values()])
    return buffer.getvalue()


@lie("a shard index added", is_folder)
def _(random: random.Random, told: Told) -> Words:
    """Stale: it names shards that are not there, or leads to other files."""
    folder = denoiser_folder(random, told)
    variant = random.choice(["", ".fp16"])
    path = folder / f"diffusion_pytorch_model.safetensors.index{variant}.json"
    name = random.choice(
        ["diffusion_pytorch_model-00001-of-00001.safetensors", "diffusion_pytorch_model.safetensors"]
    )
    names = read_raw(some_value(random, told).path).names()
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, name)}
    write_new(path, json.dumps(index).encode())
    return (told.shown(path),)


@lie("original shards and their index added", is_whole)
def _(random: random.Random, told: Told) -> Words:
    """diffusers looks an index up first."""
    folder = denoiser_folder(random, told)
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    tensors = original_weights(random, told)
    write_new(folder / shard, as_safetensors(told, tensors))
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
    path = folder / "diffusion_pytorch_model.safetensors.index.json"
    if path.exists():
        raise NotHere
    path.write_text(json.dumps(index))
    return told.shown(path), told.shown(folder / shard)


@lie("a shard index changed", is_sharded)
def _(random: random.Random, told: Told) -> Words:
    found = sorted(told.path.rglob("*.index.json"))
    if not found:
        raise NotHere
    path = random.choice(found)
    index = read_json(path)
    shards = sorted(set(index["weight_map"].values()))
    name = random.choice(list(index["weight_map"]))
    change = random.randrange(4)
    if change == 0:
        index["metadata"]["total_size"] += 1
    elif change == 1:
        index["weight_map"][name] = random.choice([*shards, "other.safetensors"])
    elif change == 2:
        del index["weight_map"][name]
    else:
        index["weight_map"][f"{name}.more"] = shards[0]
    path.write_text(json.dumps(index, indent=2) + "\n")
    return (told.shown(path),)


@lie("a copy in other shards", is_whole)
def _(random: random.Random, told: Told) -> Words:
    """Every tensor is there and right, but not as it was written."""
    folder = denoiser_folder(random, told)
    path = folder / "diffusion_pytorch_model.safetensors"
    if not path.exists():
        raise NotHere
    tensors = load_file(path)
    names = list(tensors)
    cut = random.randrange(1, len(names))
    shards = {}
    for number, part in enumerate((names[:cut], names[cut:]), 1):
        shard = folder / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, shard, metadata={"format": "pt"})
        shards |= dict.fromkeys(part, shard.name)
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()
    return (told.shown(path),)


def is_lone_component(layout: Layout) -> bool:
    """Folders that are themselves a component."""
    return layout.is_patched and layout.kind == COMPONENT


def json_files(told: Told) -> Iterator[Path]:
    """Configurations, of the pipeline, the networks, the scheduler and the tokenizer."""
    for path in told.files():
        if path.suffix == ".json" and ".index" not in path.name and path.name != "vocab.json":
            yield path


CONFIGURATION_CHANGES: dict[str, Any] = {
    "in_channels": 9,
    "cross_attention_dim": 768,
    "beta_start": 0.1,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "_class_name": "SomeOtherClass",
    "_diffusers_version": "0.0.0",
    "_name_or_path": f"/home/ann/{PROMPT}",
    "hidden_size": 48,
    "vocab_size": 261,
    "sample_size": 64,
    "only_cross_attention": True,
    "dual_cross_attention": True,
    "attention_head_dim": 8,
    "num_layers": 1,
}


@lie("a value of a configuration changed", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice(list(json_files(told)))
    value = read_json(path)
    known = [name for name in CONFIGURATION_CHANGES if value.get(name, None) is not None]
    if not known:
        raise NotHere
    name = random.choice(known)
    value[name] = CONFIGURATION_CHANGES[name]
    path.write_text(json.dumps(value, indent=2) + "\n")
    return (told.shown(path),)


@lie("a field added to a configuration", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice(list(json_files(told)))
    value = read_json(path)
    added = random.choice(["auto_map", "prompt", "quantization_config", "_name_or_path2", "encoder_hid_dim"])
    value[added] = random.choice([PROMPT, {"AutoModel": "pipeline.Custom"}, None, 1])
    path.write_text(json.dumps(value, indent=2) + "\n")
    return (told.shown(path),)


@lie("a configuration reformatted", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice(list(json_files(told)))
    text = path.read_text(encoding="utf-8")
    path.write_text(random.choice([text + " ", "\n" + text, json.dumps(json.loads(text))]), encoding="utf-8")
    return (told.shown(path),)


@lie("the class of a component changed", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    path = told.path / "model_index.json"
    index = read_json(path)
    name = random.choice([name for name in index if not name.startswith("_")])
    index[name] = random.choice([["diffusers", "ControlNetModel"], ["pipeline", "Custom"], [None, None]])
    path.write_text(json.dumps(index, indent=2) + "\n")
    return ("model_index.json", name)


@lie("a component added to the pipeline's index", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    path = told.path / "model_index.json"
    index = read_json(path)
    name = random.choice(["controlnet", "unet_2", "image_encoder", "prior"])
    index[name] = random.choice([["diffusers", "UNet2DConditionModel"], [None, None], ["transformers", "X"]])
    path.write_text(json.dumps(index, indent=2) + "\n")
    return ("model_index.json", name)


@lie("a component added with original weights", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    name = random.choice(["unet_2", "prior", "controlnet", "ema_unet"])
    folder = told.path / name
    content = as_safetensors(told, original_weights(random, told))
    write_new(folder / "diffusion_pytorch_model.safetensors", content)
    shutil.copy(told.path / "unet" / "config.json", folder / "config.json")
    if random.random() < 0.5:
        index = read_json(told.path / "model_index.json")
        index[name] = ["diffusers", "UNet2DConditionModel"]
        (told.path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return ("model_index.json", name)


@lie("a pipeline's index added to a component", is_lone_component)
def _(random: random.Random, told: Told) -> Words:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (told.path / "model_index.json").write_text(json.dumps(index))
    return ("model_index.json",)


@lie("a word added to the tokenizer", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    path = told.path / "tokenizer" / "tokenizer.json"
    value = read_json(path)
    value["model"]["vocab"][PROMPT] = 999
    path.write_text(json.dumps(value, indent=2))
    return ("tokenizer/tokenizer.json",)


@lie("a tokenizer file added", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    name = random.choice(
        ["merges.txt", "vocab.txt", "added_tokens.json", "chat_template.jinja", "vocab.json"]
    )
    path = told.path / "tokenizer" / name
    write_new(path, json.dumps({PROMPT: 0}).encode())
    return (told.shown(path),)


@lie("the license changed or added", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice([told.path, denoiser_folder(random, told)]) / random.choice(["LICENSE", "NOTICE.md"])
    before = path.read_text() if path.exists() else ""
    path.write_text(before + PROMPT)
    return (told.shown(path),)


@lie("weights as text in a license", is_folder)
def _(random: random.Random, told: Told) -> Words:
    content = as_safetensors(told, original_weights(random, told))
    path = some_folder(random, told) / random.choice(["LICENSE.txt", "NOTICE", "COPYING"])
    write_new(path, base64.b64encode(content))
    return (told.shown(path),)


ADDED_FILES: dict[str, tuple[str, ...]] = {
    "a text file added": (
        "NOTES.md",
        "prompts.txt",
        "README.rst",
        "config.yaml",
        "custom.json",
        ".gitignore",
        "surgery-manifest.json",
    ),
    "a program added": ("pipeline.py", "unet.py", "modeling.py", "setup.sh", "handler.py"),
    "a picture added": ("sample.png", "ann.jpg"),
    "an empty file added": (
        "EMPTY",
        "x.safetensors",
        "diffusion_pytorch_model.fp16.bin",
        "LICENSE.md",
        "a.bin",
    ),
    "original weights added as safetensors": (
        "backup.safetensors",
        "diffusion_pytorch_model.non_ema.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.safetensors",
        "pytorch_lora_weights.safetensors",
        "diffusion_pytorch_model.safetensors.bak",
        "Diffusion_Pytorch_Model.SAFETENSORS",
        "diffusion_pytorch_model.safetensors~",
        ".diffusion_pytorch_model.safetensors.swp",
    ),
    "original weights added as a pickle": (
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.bin",
        "diffusion_pytorch_model.non_ema.bin",
        "pytorch_model.bin",
        "weights.pt",
        "v1-5-pruned.ckpt",
        "training.pth",
        "optimizer.pkl",
    ),
    "original weights added in another format": (
        "model.gguf",
        "model.onnx",
        "model.onnx_data",
        "diffusion_flax_model.msgpack",
        "openvino_model.bin",
        "model.flashpack",
        "weights.npz",
        "weights.zip",
        "weights.tar.gz",
        "weights",
        "sample.png",
        "vocab.txt",
        "spiece.model",
    ),
    "a file added whose name no terminal shows": ("evil\x1b[2J.json", "two\nlines.txt", "back\rslash.md"),
}


def adding_file(kind: str) -> Tell:
    """Add a file of a kind anywhere."""

    def tell(random: random.Random, told: Told) -> Words:
        path = some_folder(random, told) / random.choice(ADDED_FILES[kind])
        content = {
            "a text file added": PROMPT.encode(),
            "a program added": b"print('hello')\n",
            "a picture added": b"\x89PNG\r\n\x1a\n" + random.randbytes(99),
            "an empty file added": b"",
        }.get(kind)
        if content is None:
            tensors = original_weights(random, told)
            content = as_pickle(tensors) if "pickle" in kind else as_safetensors(told, tensors)
            if path.suffix == ".npz":
                content = as_arrays(tensors)
            elif path.suffix == ".zip":
                content = as_archive(content)
            elif path.suffix == ".png":
                content = b"\x89PNG\r\n\x1a\n" + content
        write_new(path, content)
        return told.shown(path), told.shown(path).encode("unicode_escape").decode()

    return tell


for _kind in ADDED_FILES:
    lie(_kind, is_any_folder if "weights" in _kind else is_folder)(adding_file(_kind))


@lie("a readme that the source lacks", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = some_folder(random, told) / "README.md"
    path.write_text(PROMPT)
    return (told.shown(path),)


@lie("a file that patch leaves out carried over", has_left_out)
def _(random: random.Random, told: Told) -> Words:
    source = told.layout.source
    found = [
        path.relative_to(source)
        for path in sorted(source.rglob("*"))
        if path.suffix in (".onnx", ".ckpt", ".bin") and not (told.path / path.relative_to(source)).exists()
    ]
    if not found:
        raise NotHere
    path = random.choice(found)
    shutil.copy(source / path, told.path / path)
    return (path.as_posix(),)


@lie("a hidden folder added", is_any_folder)
def _(random: random.Random, told: Told) -> Words:
    folder = some_folder(random, told) / random.choice([".git", ".cache", ".ipynb_checkpoints", "..data"])
    content = as_safetensors(told, original_weights(random, told))
    write_new(folder / random.choice(["x", "diffusion_pytorch_model.safetensors"]), content)
    return (told.shown(folder),)


@lie("a folder within a folder added", is_any_folder)
def _(random: random.Random, told: Told) -> Words:
    parent = some_folder(random, told)
    content = as_safetensors(told, original_weights(random, told))
    path = (
        parent / random.choice(["old", "fp16", "__pycache__", "ema"]) / "diffusion_pytorch_model.safetensors"
    )
    write_new(path, content)
    return (told.shown(path.parent),)


@lie("a folder renamed", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    folder = random.choice(sorted(path for path in told.path.iterdir() if path.is_dir()))
    renamed = folder.with_name(random.choice([folder.name.upper(), f"{folder.name}_2", f"{folder.name}."]))
    folder.rename(renamed)
    return folder.name, renamed.name


@lie("a file renamed", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice(told.files())
    names = [path.name.upper(), f"{path.name}.bak", f"{path.stem}.fp16{path.suffix}", f"x{path.name}"]
    renamed = path.with_name(random.choice(names))
    if renamed.exists():
        raise NotHere
    path.rename(renamed)
    return told.shown(path), told.shown(renamed), path.parent.name


@lie("a file removed", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice(told.files())
    path.unlink()
    return told.shown(path), path.parent.name


@lie("a component removed", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    folder = random.choice(sorted(path for path in told.path.iterdir() if path.is_dir()))
    shutil.rmtree(folder)
    return (folder.name,)


@lie("two files exchanged", is_folder)
def _(random: random.Random, told: Told) -> Words:
    one, other = random.sample(told.files(), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return told.shown(one), told.shown(other), one.parent.name, other.parent.name


@lie("a link to the same content elsewhere", is_folder)
def _(random: random.Random, told: Told) -> Words:
    """What is uploaded or copied is then not what was compared."""
    path = random.choice(told.files())
    target = told.elsewhere / path.name
    path.rename(target)
    path.symlink_to(target)
    return (told.shown(path), path.parent.name)


@lie("a link to the same content within", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice(told.files())
    target = path.with_name(f"x{path.name}")
    path.rename(target)
    path.symlink_to(target.name)
    return told.shown(path), told.shown(target), path.parent.name


@lie("a folder linked to the same content elsewhere", is_pipeline)
def _(random: random.Random, told: Told) -> Words:
    folder = random.choice(sorted(path for path in told.path.iterdir() if path.is_dir()))
    shutil.move(folder, told.elsewhere / folder.name)
    folder.symlink_to(told.elsewhere / folder.name)
    return (folder.name,)


@lie("a link to the original weights", is_any_folder)
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    save_file(restored(told, value.path), told.elsewhere / "o.safetensors", metadata={"format": "pt"})
    value.path.unlink()
    value.path.symlink_to(told.elsewhere / "o.safetensors")
    return value.layer, value.name, told.shown(value.path)


@lie("a further link to original weights", is_any_folder)
def _(random: random.Random, told: Told) -> Words:
    tensors = original_weights(random, told)
    save_file(tensors, told.elsewhere / "o.safetensors", metadata={"format": "pt"})
    path = some_folder(random, told) / random.choice(
        ["diffusion_pytorch_model.non_ema.safetensors", "x", "o.bin"]
    )
    path.symlink_to(told.elsewhere / "o.safetensors")
    return (told.shown(path),)


@lie("a link that leads nowhere", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = random.choice([*told.files(), some_folder(random, told) / "lost"])
    if path.exists():
        path.unlink()
    path.symlink_to(told.elsewhere / "nowhere")
    return told.shown(path), path.parent.name


@lie("a named pipe added", is_folder)
def _(random: random.Random, told: Told) -> Words:
    path = some_folder(random, told) / random.choice(["pipe", "diffusion_pytorch_model.fp16.safetensors"])
    if path.exists():
        raise NotHere
    os.mkfifo(path)
    return (told.shown(path),)


@lie("a weight file replaced by a pickle of the original", is_any_folder)
def _(random: random.Random, told: Told) -> Words:
    value = some_value(random, told)
    path = value.path.with_suffix(".bin")
    content = as_pickle(restored(told, value.path))
    value.path.unlink()
    write_new(path, content)
    return told.shown(path), value.layer, value.name
