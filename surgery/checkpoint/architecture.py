"""Which denoisers are understood, by the class name in their `config.json`, as data.

A class belongs here when its `attn2.to_v` is known to read the text embedding and nothing else. Sources: the
model definitions in diffusers' `models/unets/` and `models/transformers/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgery.errors import UsageError


@dataclass(frozen=True, slots=True)
class Architecture:
    """A denoiser class: its family name for people, and the setting that is the width `attn2.to_v` reads."""

    family: str
    width_setting: str = ""


ARCHITECTURES = {
    "UNet2DConditionModel": Architecture("U-Net", "cross_attention_dim"),
    "PixArtTransformer2DModel": Architecture("PixArt", "cross_attention_dim"),
    "Transformer2DModel": Architecture("PixArt", "cross_attention_dim"),
    "SanaTransformer2DModel": Architecture("Sana", "cross_attention_dim"),
    "HunyuanDiT2DModel": Architecture("Hunyuan-DiT", "cross_attention_dim"),
    "WanTransformer3DModel": Architecture("Wan"),
    "LuminaNextDiT2DModel": Architecture("Lumina-Next", "cross_attention_dim"),
}

_JOINT = "mixes text and image in one attention, so that no neuron belongs to the text alone"
REFUSED_ARCHITECTURES = {
    "SD3Transformer2DModel": f"{_JOINT} (its attn2, where it has one, is image self-attention)",
    "FluxTransformer2DModel": _JOINT,
    "Flux2Transformer2DModel": _JOINT,
    "AuraFlowTransformer2DModel": _JOINT,
    "QwenImageTransformer2DModel": _JOINT,
    "Lumina2Transformer2DModel": _JOINT,
    "StableCascadeUNet": "has no attn2.to_v layers",
    "UNet2DModel": "is not conditioned on text",
}

# text width -> family of a U-Net
_UNET_FAMILIES = {768: "SD1", 1024: "SD2", 2048: "SDXL base", 1280: "SDXL refiner"}
_INPUT_CHANNELS = {9: "inpainting", 8: "image-conditioned", 5: "depth", 7: "upscaler"}
_WAY_OUT = "no way around it; see the README for the layouts that can be patched"


def family_of(configuration: Mapping[str, Any]) -> str:
    """The family of a denoiser, for people: `SD1`, `SDXL base, inpainting`, `PixArt`, `unknown (...)`."""
    name = str(configuration.get("_class_name", "?"))
    known = ARCHITECTURES.get(name)
    if known is None:
        return f"unknown ({name})"
    if known.family != "U-Net":
        return known.family
    return unet_family(configuration.get("cross_attention_dim"), configuration.get("in_channels"))


def unet_family(text_width: Any, input_channels: Any) -> str:
    """The family of a U-Net by the width of its text embedding and its number of input channels."""
    family = _UNET_FAMILIES.get(text_width) if isinstance(text_width, int) else None
    special = _INPUT_CHANNELS.get(input_channels) if isinstance(input_channels, int) else None
    return ", ".join(filter(None, (family or f"U-Net (text width {text_width})", special)))


def check_configuration(configuration: Mapping[str, Any], shown: str) -> list[str]:
    """Refuse a denoiser whose `attn2.to_v` is not, or not only, text cross-attention.

    Args:
        configuration: its `config.json`.
        shown: how messages call the file.

    Returns:
        warnings: true statements that the user should know, none of them a reason to stop.

    Raises:
        UsageError: an architecture that is not understood, or quantised weights.
    """
    name = str(configuration.get("_class_name", "?"))
    if "quantization_config" in configuration:
        raise UsageError(
            shown, "the denoiser is quantised", "patch the unquantised checkpoint, then quantise it"
        )
    if name in REFUSED_ARCHITECTURES:
        raise UsageError(shown, f"{name} {REFUSED_ARCHITECTURES[name]}", _WAY_OUT)
    if name not in ARCHITECTURES:
        raise UsageError(shown, f"the denoiser class {name} is not known", _WAY_OUT)
    for setting in ("double_self_attention", "dual_cross_attention"):
        if configuration.get(setting):
            raise UsageError(shown, f"with {setting}, attn2 is not text cross-attention", _WAY_OUT)
    if configuration.get("encoder_hid_dim_type") in ("image_proj", "ip_image_proj", "text_image_proj"):
        raise UsageError(shown, "its cross-attention reads images as well as text", _WAY_OUT)
    only_cross = configuration.get("only_cross_attention")
    if only_cross is True or (isinstance(only_cross, list) and any(only_cross)):
        return [f"{shown}: with only_cross_attention, attn1 reads the text too; its rows are not touched"]
    return []


def text_widths(configuration: Mapping[str, Any]) -> set[int] | None:
    """The input widths that an `attn2.to_v` may have; None when the configuration does not say."""
    known = ARCHITECTURES.get(str(configuration.get("_class_name", "")))
    width = configuration.get(known.width_setting) if known and known.width_setting else None
    if isinstance(width, int):
        return {width}
    if isinstance(width, list) and all(isinstance(each, (int, list)) for each in width):
        return {inner for each in width for inner in (each if isinstance(each, list) else [each])}
    return None
