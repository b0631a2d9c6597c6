"""All tensor names of a Stable Diffusion single file, translated to diffusers, as data.

Used to compare a single file with a diffusers folder. Names only: where the two layouts store different
numbers (a text encoder whose query, key and value are one tensor), the tensors keep their own names and are
reported as not comparable. Source: the conversion in diffusers' `loaders/single_file_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from surgery.checkpoint.names.value_layers import ATTENTION_BLOCKS, DENOISER_PREFIX, EMA_PREFIX

UNCONVERTED = "not comparable"

_RESNET_PARTS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_UNET_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
# single-file block -> the diffusers module that is its residual block, resampler included
_RESNET_BLOCKS = {
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.2": "mid_block.resnets.1",
    **{
        f"{block.removesuffix('.1')}.0": module.replace("attentions", "resnets")
        for block, module in ATTENTION_BLOCKS.items()
        if block != "middle_block.1"
    },
}
_RESAMPLERS = {
    "input_blocks.3.0.op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks.6.0.op": "down_blocks.1.downsamplers.0.conv",
    "input_blocks.9.0.op": "down_blocks.2.downsamplers.0.conv",
}
_UPSAMPLER = re.compile(r"output_blocks\.(2|5|8)\.[12]\.conv")
_VAE_PREFIX = "first_stage_model."
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(down|up)\.(\d+)\.(?:block\.(\d+)|downsample|upsample)")
_VAE_PARTS = {
    ".nin_shortcut.": ".conv_shortcut.",
    ".mid.block_1.": ".mid_block.resnets.0.",
    ".mid.block_2.": ".mid_block.resnets.1.",
    ".mid.attn_1.norm.": ".mid_block.attentions.0.group_norm.",
    ".mid.attn_1.q.": ".mid_block.attentions.0.to_q.",
    ".mid.attn_1.k.": ".mid_block.attentions.0.to_k.",
    ".mid.attn_1.v.": ".mid_block.attentions.0.to_v.",
    ".mid.attn_1.proj_out.": ".mid_block.attentions.0.to_out.0.",
    ".norm_out.": ".conv_norm_out.",
}
_TEXT_PREFIXES = {
    "cond_stage_model.transformer.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
}


def split_single_file(keys: Iterable[str]) -> dict[tuple[str, str], dict[str, str]]:
    """Split a single file's tensors into components.

    Args:
        keys: the tensor names in the file.

    Returns:
        (component, variant) -> diffusers tensor name -> name in the file. The variant is `EMA` for the EMA
        twin of the denoiser, else "". What has no diffusers name, or one that another tensor has already, is
        under (`not comparable`, "") by its own name: nothing is lost.
    """
    names = list(keys)
    levels = _decoder_levels(names)
    flat = {EMA_PREFIX + key.replace(".", ""): key for key in _denoiser_keys(names)}
    split: dict[tuple[str, str], dict[str, str]] = {}
    for key in names:
        place, name = _place(key, levels, flat)
        if name in split.get(place, {}):
            place, name = (UNCONVERTED, ""), key
        split.setdefault(place, {})[name] = key
    return split


def _place(key: str, levels: int, flat: dict[str, str]) -> tuple[tuple[str, str], str]:
    unprefixed = flat.get(key) or key.removeprefix(DENOISER_PREFIX)
    if name := unet_name(unprefixed):
        return ("unet", "EMA" if key in flat else ""), name
    if key.startswith(_VAE_PREFIX):
        return ("vae", ""), _vae_name(key.removeprefix(_VAE_PREFIX), levels)
    for prefix, component in _TEXT_PREFIXES.items():
        if key.startswith(prefix):
            return (component, ""), text_name(key.removeprefix(prefix))
    return (UNCONVERTED, ""), key


def text_name(key: str) -> str:
    """A text encoder's tensor name without the `text_model.` that transformers wrote before 5.6."""
    return key.removeprefix("text_model.")


def unet_name(key: str) -> str | None:
    """The diffusers name of a U-Net tensor, by its single-file name without prefix; None if it has none."""
    if key.startswith(
        ("down_blocks.", "mid_block.", "up_blocks.", "conv_", "time_embedding.", "add_embedding.")
    ):
        return key
    stem, _, kind = key.rpartition(".")
    if stem in _UNET_NAMES or stem in _RESAMPLERS:
        return f"{_UNET_NAMES.get(stem) or _RESAMPLERS[stem]}.{kind}"
    if match := _UPSAMPLER.fullmatch(stem):
        return f"up_blocks.{int(match[1]) // 3}.upsamplers.0.conv.{kind}"
    parts = key.split(".")
    places = (2, 3) if parts[0] == "middle_block" else (3,)
    for count in places:
        block, rest = ".".join(parts[:count]), ".".join(parts[count:])
        if block in ATTENTION_BLOCKS:
            return f"{ATTENTION_BLOCKS[block]}.{rest}"
        if block in _RESNET_BLOCKS:
            inner, _, inner_kind = rest.rpartition(".")
            if inner in _RESNET_PARTS:
                return f"{_RESNET_BLOCKS[block]}.{_RESNET_PARTS[inner]}.{inner_kind}"
    return None


def _vae_name(key: str, levels: int) -> str:
    def block_name(match: re.Match[str]) -> str:
        side, direction, level, number = match.groups()
        # the single file counts the decoder's levels from the finest, diffusers from the coarsest
        place = level if direction == "down" else str(levels - 1 - int(level))
        inner = f"resnets.{number}" if number else f"{direction}samplers.0"
        return f"{side}.{direction}_blocks.{place}.{inner}"

    key = _VAE_BLOCK.sub(block_name, key)
    for old, new in _VAE_PARTS.items():
        key = key.replace(old, new)
    return key


def _decoder_levels(keys: list[str]) -> int:
    found = [re.match(r"first_stage_model\.decoder\.up\.(\d+)\.", key) for key in keys]
    return max((int(match[1]) for match in found if match), default=-1) + 1


def _denoiser_keys(keys: list[str]) -> list[str]:
    return [key.removeprefix(DENOISER_PREFIX) for key in keys if key.startswith(DENOISER_PREFIX)]
