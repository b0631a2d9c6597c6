"""What a denoiser's `config.json` says, or its tensors where there is none: class, understood or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery import denoisers
from surgery.checkpoint.names.families import unet_family
from surgery.denoisers import listed
from surgery.errors import UsageError

NO_WAY_OUT = "no way around it; see docs/checkpoints.md for the layouts that can be patched"
# class -> how the name of a tensor begins that it alone has: for files without a configuration
_CLASS_MARKS = {
    "HunyuanDiT2DModel": "time_extra_emb.",
    "LuminaNextDiT2DModel": "time_caption_embed.",
    "WanTransformer3DModel": "condition_embedder.text_embedder.",
    "PixArtTransformer2DModel": "adaln_single.",
    "SanaTransformer2DModel": "time_embed.emb.",
}
# setting of a U-Net -> value -> how the names of tensors begin that tell it
_SETTING_MARKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "addition_embed_type": {
        "text": ("add_embedding.pool.",),
        "image": ("add_embedding.image_proj.",),
        "text_time": ("add_embedding.linear_1.", "label_emb.0.0."),
    },
    "class_embed_type": {"projection": ("class_embedding.linear_1.",)},
    "encoder_hid_dim_type": {"text_proj": ("encoder_hid_proj.weight",)},
    "attention_type": {"gated": ("position_net.",)},
}
_UNCLIP_WIDTH = 1024  # of the text; a single file calls its added class embedding as SDXL calls the prompt's


def is_denoiser_class(name: Any) -> bool:
    """Whether a `_class_name` is a denoiser's, one that can be edited or one that is refused."""
    return name in denoisers.DENOISERS or name in denoisers.REFUSED_CLASSES


def with_class(configuration: Mapping[str, Any], declared: str | None) -> Mapping[str, Any]:
    """A configuration that names the torch class by which diffusers loads it.

    diffusers does not read `_class_name` here: a pipeline loads a component by the class its
    `model_index.json` declares, and a component folder is loaded by the class that the user names. So a
    missing name is no obstacle, and neither is Flax's: it loads the torch weights beside it.

    Args:
        configuration: a component's `config.json`.
        declared: its class by `model_index.json`; None where there is none.
    """
    name = configuration.get("_class_name")
    if isinstance(name, str) and not name.startswith("Flax"):
        return configuration
    if not isinstance(name, str):
        name = declared or _class_by_settings(configuration)
    return {**configuration, "_class_name": name.removeprefix("Flax")} if name else configuration


def _class_by_settings(configuration: Mapping[str, Any]) -> str | None:
    """A 2D U-Net by its blocks: a ControlNet has none that go up, video U-Nets have others."""
    ways = [listed(configuration.get(f"{way}_block_types")) for way in ("down", "up")]
    is_unet = all(any("CrossAttn" in str(each) and str(each).endswith("2D") for each in way) for way in ways)
    return "UNet2DConditionModel" if is_unet else None


def settings_of_file(tensors: Mapping[str, Any], width: int | None) -> dict[str, Any]:
    """The class and settings of a denoiser as far as the names of its tensors tell them.

    Args:
        tensors: name without the prefix of single files -> anything with a `shape`.
        width: of the text embedding, where all value layers agree on it.
    """
    for name, mark in _CLASS_MARKS.items():
        if any(key.startswith(mark) for key in tensors):
            return {"_class_name": name, "cross_attention_dim": width}
    settings: dict[str, Any] = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": width}
    for setting, values in _SETTING_MARKS.items():
        found = (value for value, marks in values.items() if any(key.startswith(marks) for key in tensors))
        settings[setting] = next(found, None)
    if width == _UNCLIP_WIDTH and any(key.startswith("label_emb.0.0.") for key in tensors):
        settings |= {"addition_embed_type": None, "class_embed_type": "projection"}
    first = tensors.get("input_blocks.0.0.weight") or tensors.get("conv_in.weight")
    return settings | {"in_channels": first.shape[1] if first is not None else None}


def family_of(configuration: Mapping[str, Any], pipeline: str = "") -> str:
    """The family of a denoiser, for people: `SD1`, `SDXL base, inpainting`, `PixArt`, `unknown (...)`.

    Args:
        configuration: its `config.json`, or `settings_of_file`.
        pipeline: the class of its pipeline, where it is known.
    """
    name = class_name(configuration)
    known = denoisers.DENOISERS.get(name)
    if known is None:
        return f"unknown ({name})"
    if known.family != "U-Net":
        return "VQ-Diffusion" if configuration.get("num_vector_embeds") else known.family
    return unet_family(configuration, pipeline)


def check_configuration(configuration: Mapping[str, Any], shown: str) -> None:
    """Refuse a denoiser whose `attn2.to_v` is not text cross-attention.

    Args:
        configuration: its `config.json`.
        shown: how messages call the file.

    Raises:
        UsageError: an architecture that is not understood, or quantized weights.
    """
    if "quantization_config" in configuration:
        raise UsageError(
            shown, "the denoiser is quantized", "patch the unquantized checkpoint, then quantize it"
        )
    refused = denoisers.class_refusal(class_name(configuration)) or denoisers.settings_refusal(configuration)
    if refused is not None:
        raise UsageError(shown, refused, NO_WAY_OUT)


def text_widths(configuration: Mapping[str, Any]) -> set[int] | None:
    """The input widths that an `attn2.to_v` may have; None when the configuration does not say."""
    return denoisers.text_widths(class_name(configuration), configuration)


def class_name(configuration: Mapping[str, Any]) -> str:
    """The class by a configuration, or `?`."""
    return str(configuration.get("_class_name", "?"))
