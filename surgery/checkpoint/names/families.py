"""What people call a U-Net: the family told by its settings or its pipeline, and what it is made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.denoisers import listed

_PLAIN = {"addition_embed_type": (None,), "encoder_hid_dim_type": (None,), "class_embed_type": (None,)}
_XL = {"addition_embed_type": ("text_time",), "encoder_hid_dim_type": (None,)}
# family of a U-Net -> the settings that tell it, the first that fits
UNET_FAMILIES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "AudioLDM": {"class_embeddings_concat": (True,)},
    "Kandinsky 2.1": {"addition_embed_type": ("text_image",)},
    "Kandinsky 2.2": {"addition_embed_type": ("image", "image_hint")},
    "DeepFloyd IF": {"addition_embed_type": ("text",), "down_block_types": ("SimpleCrossAttnDownBlock2D",)},
    "Karlo": {"down_block_types": ("SimpleCrossAttnDownBlock2D",)},
    "latent upscaler": {"down_block_types": ("KCrossAttnDownBlock2D",)},
    "Kolors": {"addition_embed_type": ("text_time",), "encoder_hid_dim_type": ("text_proj",)},
    "SDXL base": {**_XL, "cross_attention_dim": (2048,)},
    "SDXL refiner": {**_XL, "cross_attention_dim": (1280,)},
    "SD2 unCLIP": {"class_embed_type": ("projection",), "cross_attention_dim": (1024,)},
    "SD1": {**_PLAIN, "cross_attention_dim": (768,)},
    "SD2": {**_PLAIN, "cross_attention_dim": (1024,)},
}
# how the name of a pipeline class begins -> the family of its denoiser, where no setting tells it
PIPELINE_FAMILIES: Mapping[str, str] = {
    "StableDiffusionImageVariation": "SD image variations",
    "PaintByExample": "Paint by Example",
    "AltDiffusion": "AltDiffusion",
    "BlipDiffusion": "BLIP-Diffusion",
    "LDMTextToImage": "LDM",
    "Marigold": "Marigold",
    "VQDiffusion": "VQ-Diffusion",
}
# number of input channels -> what a U-Net is made for
INPUT_CHANNELS: Mapping[int, str] = {9: "inpainting", 8: "image-conditioned", 5: "depth", 7: "upscaler"}


def unet_family(configuration: Mapping[str, Any], pipeline: str = "") -> str:
    """The family of a U-Net by its settings and the class of its pipeline (if known), for people."""
    family = next((each for start, each in PIPELINE_FAMILIES.items() if pipeline.startswith(start)), None)
    if family is None:
        family = next((name for name, told in UNET_FAMILIES.items() if _fits(configuration, told)), None)
    channels = configuration.get("in_channels")
    special = INPUT_CHANNELS.get(channels) if isinstance(channels, int) else None
    boxes = "GLIGEN" if configuration.get("attention_type") in ("gated", "gated-text-image") else None
    unknown = f"U-Net (text width {configuration.get('cross_attention_dim')})"
    return ", ".join(filter(None, (family or unknown, special, boxes)))


def _fits(configuration: Mapping[str, Any], told: Mapping[str, tuple[Any, ...]]) -> bool:
    return all(
        any(each in values for each in listed(configuration.get(setting))) for setting, values in told.items()
    )
