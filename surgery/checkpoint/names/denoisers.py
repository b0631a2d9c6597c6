"""What a denoiser's `config.json` says: its family, and whether `surgery.denoisers` understands it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery import denoisers
from surgery.errors import UsageError

_WAY_OUT = "no way around it; see docs/checkpoints.md for the layouts that can be patched"


def is_denoiser_class(name: Any) -> bool:
    """Whether a `_class_name` is a denoiser's, one that can be edited or one that is refused."""
    return name in denoisers.DENOISERS or name in denoisers.REFUSED_CLASSES


def family_of(configuration: Mapping[str, Any]) -> str:
    """The family of a denoiser, for people: `SD1`, `SDXL base, inpainting`, `PixArt`, `unknown (...)`."""
    name = _class_name(configuration)
    known = denoisers.DENOISERS.get(name)
    if known is None:
        return f"unknown ({name})"
    if known.family != "U-Net":
        return known.family
    return unet_family(configuration.get("cross_attention_dim"), configuration.get("in_channels"))


def unet_family(text_width: Any, input_channels: Any) -> str:
    """The family of a U-Net by the width of its text embedding and its number of input channels."""
    family = denoisers.UNET_FAMILIES.get(text_width) if isinstance(text_width, int) else None
    special = denoisers.INPUT_CHANNELS.get(input_channels) if isinstance(input_channels, int) else None
    return ", ".join(filter(None, (family or f"U-Net (text width {text_width})", special)))


def check_configuration(configuration: Mapping[str, Any], shown: str) -> list[str]:
    """Refuse a denoiser whose `attn2.to_v` is not, or not only, text cross-attention.

    Args:
        configuration: its `config.json`.
        shown: how messages call the file.

    Returns:
        warnings: true statements that the user should know, none of them a reason to stop.

    Raises:
        UsageError: an architecture that is not understood, or quantized weights.
    """
    if "quantization_config" in configuration:
        raise UsageError(
            shown, "the denoiser is quantized", "patch the unquantized checkpoint, then quantize it"
        )
    refused = denoisers.class_refusal(_class_name(configuration)) or denoisers.settings_refusal(configuration)
    if refused is not None:
        raise UsageError(shown, refused, _WAY_OUT)
    only_cross = configuration.get("only_cross_attention")
    if only_cross is True or (isinstance(only_cross, list) and any(only_cross)):
        return [f"{shown}: with only_cross_attention, attn1 reads the text too; its rows are not touched"]
    return []


def text_widths(configuration: Mapping[str, Any]) -> set[int] | None:
    """The input widths that an `attn2.to_v` may have; None when the configuration does not say."""
    return denoisers.text_widths(_class_name(configuration), configuration)


def _class_name(configuration: Mapping[str, Any]) -> str:
    return str(configuration.get("_class_name", "?"))
