"""The one table of denoisers: which classes are understood, how text enters them, what is refused and why.

Both wings read it. The bytes wing (`surgery.checkpoint.names`) knows a denoiser by its `config.json` and its
tensors' names, the model wing (`surgery.model.value_layers`) by its live class. A new family is a new entry
of `DENOISERS`. A class belongs there when its `attn2.to_v` is known to read the text embedding and nothing
else. Sources: the model definitions in diffusers' `models/unets/` and `models/transformers/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BLOCKS = ("down", "mid", "up")
PUBLISHED_BLOCKS = ("down", "mid")  # the NeMo paper found hardly any effect in the up blocks
PROJECTIONS = {"value": "to_v", "key": "to_k"}
TEXT_ATTENTION = "attn2"  # the module that is text cross-attention, in every class of the table


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A denoiser class whose `attn2` is text cross-attention.

    Attributes:
        family: its name for people.
        attentions: regular expression of what stands before `attn2.to_v` in the names of its value layers.
        width_setting: the setting that is the width of the text embedding, where the configuration has one.
        conditioning: how the live model is told about a prompt: value of the setting `addition_embed_type` ->
            the inputs it takes besides the text embedding (`surgery.model.conditioning` makes them). Empty
            where neurons can be patched, but not be found or audited.
    """

    family: str
    attentions: str
    width_setting: str = "cross_attention_dim"
    conditioning: Mapping[str | None, tuple[str, ...]] = field(default_factory=dict)


_UNET_INPUTS = {None: (), "text": (), "text_time": ("text_embeds", "time_ids")}
_UNET, _STACK = r"(?:down_blocks|up_blocks|mid_block)\.[a-z0-9_.]*", r"transformer_blocks\.\d+\."
DENOISERS: Mapping[str, Denoiser] = {
    "UNet2DConditionModel": Denoiser("U-Net", _UNET, conditioning=_UNET_INPUTS),
    "PixArtTransformer2DModel": Denoiser("PixArt", _STACK),
    "Transformer2DModel": Denoiser("PixArt", _STACK),
    "SanaTransformer2DModel": Denoiser("Sana", _STACK),
    "HunyuanDiT2DModel": Denoiser("Hunyuan-DiT", r"blocks\.\d+\."),
    "WanTransformer3DModel": Denoiser("Wan", r"blocks\.\d+\.", width_setting=""),
    "LuminaNextDiT2DModel": Denoiser("Lumina-Next", r"layers\.\d+\."),
}

_JOINT = "mixes text and image in one attention, so that no neuron belongs to the text alone"
# class -> what is wrong with it, as the end of a sentence that begins with its name
REFUSED_CLASSES: Mapping[str, str] = {
    "SD3Transformer2DModel": f"{_JOINT} (its attn2, where it has one, is image self-attention)",
    "FluxTransformer2DModel": _JOINT,
    "Flux2Transformer2DModel": _JOINT,
    "AuraFlowTransformer2DModel": _JOINT,
    "QwenImageTransformer2DModel": _JOINT,
    "Lumina2Transformer2DModel": _JOINT,
    "StableCascadeUNet": "has no attn2.to_v layers",
    "UNet2DModel": "is not conditioned on text",
}
# settings that turn attn2 into something else than text cross-attention
_REFUSED_SETTINGS = ("double_self_attention", "dual_cross_attention")
_IMAGE_READERS = ("image_proj", "ip_image_proj", "text_image_proj")  # values of encoder_hid_dim_type

# text width -> family of a U-Net; number of input channels -> what it is made for
UNET_FAMILIES: Mapping[int, str] = {768: "SD1", 1024: "SD2", 2048: "SDXL base", 1280: "SDXL refiner"}
INPUT_CHANNELS: Mapping[int, str] = {9: "inpainting", 8: "image-conditioned", 5: "depth", 7: "upscaler"}


def class_refusal(name: str) -> str | None:
    """Why a denoiser of the class can't be edited, or None."""
    if name in REFUSED_CLASSES:
        return f"{name} {REFUSED_CLASSES[name]}"
    return None if name in DENOISERS else f"the denoiser class {name} is not known"


def settings_refusal(configuration: Mapping[str, Any]) -> str | None:
    """Why a denoiser of a known class can't be edited with these settings, or None."""
    for setting in _REFUSED_SETTINGS:
        if configuration.get(setting):
            return f"with {setting}, {TEXT_ATTENTION} is not text cross-attention"
    if configuration.get("encoder_hid_dim_type") in _IMAGE_READERS:
        return "its cross-attention reads images as well as text"
    return None


def live_refusal(name: str, configuration: Mapping[str, Any]) -> str | None:
    """Why a live denoiser can't be localized (its neurons may still be patched by hand), or None."""
    if refused := class_refusal(name) or settings_refusal(configuration):
        return refused
    if not DENOISERS[name].conditioning:
        return f"a {name} ({DENOISERS[name].family}) can be patched, but not localized or audited yet"
    if projected := configuration.get("encoder_hid_dim_type"):
        return f"it projects its text again (encoder_hid_dim_type {projected!r})"
    addition = configuration.get("addition_embed_type")
    if addition not in DENOISERS[name].conditioning:
        return f"it is told more than the prompt (addition_embed_type {addition!r})"
    return None


def further_inputs(name: str, configuration: Mapping[str, Any]) -> tuple[str, ...]:
    """What a live denoiser that is not refused takes besides the text embedding."""
    return DENOISERS[name].conditioning[configuration.get("addition_embed_type")]


def localizable() -> list[str]:
    """The classes whose neurons can be found, not only patched."""
    return [name for name, known in DENOISERS.items() if known.conditioning]


def text_widths(name: str, configuration: Mapping[str, Any]) -> set[int] | None:
    """The input widths that an `attn2.to_v` may have; None when the configuration does not say."""
    known = DENOISERS.get(name)
    width = configuration.get(known.width_setting) if known and known.width_setting else None
    if isinstance(width, int):
        return {width}
    if isinstance(width, (list, tuple)) and all(isinstance(each, (int, list, tuple)) for each in width):
        return {inner for each in width for inner in (each if isinstance(each, (list, tuple)) else [each])}
    return None
