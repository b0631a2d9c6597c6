"""Layouts that a folder of Stable Diffusion 1 may have, each a change of the plain one; and how it loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"
STEM = "diffusion_pytorch_model"
TEXT = "text_encoder/model.safetensors"


def half(model: Path, file: str = UNET) -> None:
    """An fp16 copy beside the plain one."""
    tensors = {name: tensor.half() for name, tensor in load_file(model / file).items()}
    save_file(tensors, model / file.replace(".safetensors", ".fp16.safetensors"), metadata={"format": "pt"})


def in_shards(model: Path, variant: str | None = None) -> None:
    """The U-Net again in shards (diffusers writes the plain or the variant's names)."""
    from diffusers import UNet2DConditionModel

    plain = (model / UNET).read_bytes()
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    unet.save_pretrained(model / "unet", variant=variant, max_shard_size="1MB")
    (model / UNET).write_bytes(plain)


def write_index(model: Path, names: list[str], index: str = f"{STEM}.safetensors.index.json") -> None:
    """An index of the U-Net that spreads its tensors over files of the given names."""
    keys = sorted(load_file(model / UNET))
    weight_map = {key: names[place % len(names)] for place, key in enumerate(keys)}
    document = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (model / "unet" / index).write_text(json.dumps(document))


def pickled(model: Path, name: str = f"{STEM}.bin") -> None:
    """The U-Net as a pickle beside its safetensors file."""
    torch.save(load_file(model / UNET), model / "unet" / name)


def index_names_a_pickle_beside_safetensors(model: Path) -> None:
    pickled(model)
    write_index(model, [f"{STEM}.bin"])


def index_names_a_lone_pickle(model: Path) -> None:
    pickled(model)
    write_index(model, [f"{STEM}.bin"])
    (model / UNET).unlink()


def partial_download(model: Path) -> None:
    in_shards(model, "fp16")
    write_index(model, [f"{STEM}-00001-of-00002.safetensors", f"{STEM}-00002-of-00002.safetensors"])
    (model / UNET).unlink()


def partial_download_with_one_shard(model: Path) -> None:
    tensors = load_file(model / UNET)
    partial_download(model)
    first = {key: tensor for place, (key, tensor) in enumerate(sorted(tensors.items())) if place % 2 == 0}
    save_file(first, model / "unet" / f"{STEM}-00001-of-00002.safetensors", metadata={"format": "pt"})


def orphaned_shards_beside_fp16(model: Path) -> None:
    half(model)
    in_shards(model)
    (model / "unet" / f"{STEM}.safetensors.index.json").unlink()
    (model / UNET).unlink()


def dangling_shard(model: Path) -> None:
    in_shards(model)
    shard = sorted((model / "unet").glob("*-00001-of-*"))[0]
    shard.unlink()
    shard.symlink_to("nowhere")


def partial_text_encoder(model: Path) -> None:
    half(model, TEXT)
    (model / TEXT).unlink()
    document = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (model / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(document))


def pickles_in_shards(model: Path) -> None:
    tensors = load_file(model / UNET)
    names = [f"{STEM}-00001-of-00002.bin", f"{STEM}-00002-of-00002.bin"]
    write_index(model, names, f"{STEM}.bin.index.json")
    for place, name in enumerate(names):
        part = [key for position, key in enumerate(sorted(tensors)) if position % 2 == place]
        torch.save({key: tensors[key] for key in part}, model / "unet" / name)


def pickles_in_shards_alone(model: Path) -> None:
    pickles_in_shards(model)
    (model / UNET).unlink()


def class_name(name: str | None) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        path = model / "unet" / "config.json"
        settings = json.loads(path.read_text())
        settings.pop("_class_name")
        path.write_text(json.dumps(settings | ({"_class_name": name} if name else {})))

    return change


def lone_pickle(model: Path) -> None:
    pickled(model)
    (model / UNET).unlink()


def weights_of_a_component_are_gone(model: Path) -> None:
    (model / "vae" / f"{STEM}.safetensors").unlink()


def a_component_is_gone(model: Path) -> None:
    shutil.rmtree(model / "vae")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "plain": lambda model: None,
    "fp16 beside": half,
    "shards beside": in_shards,
    "fp16 shards beside": lambda model: in_shards(model, "fp16"),
    "non_ema beside": lambda model: in_shards(model, "non_ema"),
    "pickle beside": pickled,
    "fp16 pickle beside": lambda model: pickled(model, f"{STEM}.fp16.bin"),
    "pickle alone": lone_pickle,
    "pickles in shards beside": pickles_in_shards,
    "pickles in shards alone": pickles_in_shards_alone,
    "an index names a pickle beside safetensors": index_names_a_pickle_beside_safetensors,
    "an index names a lone pickle": index_names_a_lone_pickle,
    "partial download": partial_download,
    "partial download, one shard": partial_download_with_one_shard,
    "orphaned shards beside fp16": orphaned_shards_beside_fp16,
    "a shard leads nowhere": dangling_shard,
    "partial text encoder": partial_text_encoder,
    "no class name": class_name(None),
    "Flax's class name": class_name("FlaxUNet2DConditionModel"),
    "weights of the autoencoder are gone": weights_of_a_component_are_gone,
    "the autoencoder is gone": a_component_is_gone,
}


def ways_to_load(folder: Path) -> set[str]:
    """In which ways diffusers itself loads a pipeline folder, or its U-Net alone."""
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    found = set()
    for variant in (None, "fp16", "non_ema"):
        for safe in (None, False):
            options = {"variant": variant, "local_files_only": True} | (
                {} if safe is None else {"use_safetensors": safe}
            )
            for loader, path in ((DiffusionPipeline, folder), (UNet2DConditionModel, folder / "unet")):
                try:
                    loader.from_pretrained(path, **options)
                except Exception:  # whatever diffusers raises, it does not load
                    continue
                found.add(f"{loader.__name__}, {variant}, {'pickles' if safe is False else 'any'}")
    return found
