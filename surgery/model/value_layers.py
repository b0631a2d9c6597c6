"""The value layers of a denoiser: the `attn2.to_v` linear layers through which a prompt enters it.

Layer names are read from the model, not hard-coded: every module named `...attn2.to_v`, ordered as the signal
meets them (down blocks, mid block, up blocks). The paper's set is the down and mid blocks. What cannot be
understood is refused by name: another denoiser class, an `attn2` that does not read the text, quantized,
fused or adapter-wrapped projections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy
import torch

from surgery import denoisers, fingerprint
from surgery.denoisers import BLOCKS, PROJECTIONS, PUBLISHED_BLOCKS, TEXT_ATTENTION
from surgery.errors import UsageError


def value_layers(
    denoiser: Any, blocks: Iterable[str] = PUBLISHED_BLOCKS, projection: str = "value"
) -> dict[str, torch.nn.Linear]:
    """Every cross-attention value projection of a `UNet2DConditionModel`, in the order of the signal.

    Args:
        denoiser: a diffusers `UNet2DConditionModel` with text cross-attention.
        blocks: which of "down", "mid" and "up" to list; the default is the set of the NeMo paper
            (arXiv 2406.02366), which found hardly any effect in the up blocks.
        projection: "value", or "key" for the key projections (`attn2.to_k`) instead.

    Returns:
        Dotted module name -> linear layer; its weight is [rows, text embedding width].

    Raises:
        UsageError: the denoiser is of another kind, or an attention layer in it cannot be understood.
    """
    wanted = set(blocks)
    if unknown := wanted - set(BLOCKS):
        raise UsageError("blocks", f"there is no {sorted(unknown)[0]!r}", f"choose from {', '.join(BLOCKS)}")
    if projection not in PROJECTIONS:
        raise UsageError("projection", f"there is no {projection!r}", "choose value or key")
    _refuse_other_denoisers(denoiser)
    suffix = f".{TEXT_ATTENTION}.{PROJECTIONS[projection]}"
    found = {
        name: module
        for name, module in denoiser.named_modules()
        if name.endswith(suffix) and name.split("_", 1)[0] in wanted
    }
    if not found:
        raise UsageError(
            type(denoiser).__name__,
            f"has no layer named *{suffix} in its {', '.join(sorted(wanted))} blocks",
            "it needs text cross-attention under diffusers' module names",
        )
    for name in found:
        _refuse_odd_layer(denoiser, name)
    return dict(sorted(found.items(), key=lambda item: _signal_order(item[0])))


def denoiser_fingerprint(denoiser: Any) -> dict[str, Any]:
    """The sketch of ALL value layers of the denoiser (up blocks included); see `surgery.fingerprint`."""
    layers: dict[str, tuple[tuple[int, int], fingerprint.ReadRow]] = {}
    for name, layer in value_layers(denoiser, BLOCKS).items():
        rows, columns = layer.weight.shape
        layers[name] = ((rows, columns), _row_reader(layer.weight))
    return fingerprint.fingerprint(layers)


def block_of(layer: str) -> str:
    """The top-level block that holds a layer: `down_blocks.0.attentions.1...` -> `down_blocks.0`."""
    words = layer.split(".")
    return words[0] if words[0] == "mid_block" else ".".join(words[:2])


def _row_reader(weight: torch.Tensor) -> fingerprint.ReadRow:
    def read_row(row: int) -> numpy.ndarray:
        return weight[row].detach().to("cpu", torch.float64).numpy()

    return read_row


def _signal_order(name: str) -> tuple[Any, ...]:
    numbers = tuple(int(number) for number in re.findall(r"\d+", name))
    return (BLOCKS.index(name.split("_", 1)[0]), *numbers)


def _refuse_other_denoisers(denoiser: Any) -> None:
    kind = type(denoiser).__name__
    if refused := denoisers.live_refusal(kind, denoiser.config):
        raise UsageError(
            "the denoiser",
            refused,
            f"give a pipeline whose denoiser is a {', '.join(denoisers.localizable())}",
        )
    if getattr(denoiser.config, "quantization_config", None) or getattr(denoiser, "is_quantized", False):
        raise UsageError(kind, "is quantized", "load the unquantized checkpoint")
    if any(name.endswith(".attn2.to_kv") for name, _ in denoiser.named_modules()):
        raise UsageError(kind, "has fused projections (attn2.to_kv)", "call unfuse_qkv_projections() first")


def _refuse_odd_layer(denoiser: Any, name: str) -> None:
    layer = denoiser.get_submodule(name)
    attention = denoiser.get_submodule(name.rpartition(".")[0])
    weight = getattr(layer, "weight", None)
    if type(layer) is not torch.nn.Linear or weight is None or not weight.is_floating_point():
        raise UsageError(
            name,
            f"is a {type(layer).__name__}, not a plain linear layer of floating-point weights",
            "unload adapters and load unquantized weights",
        )
    if not getattr(attention, "is_cross_attention", True):
        raise UsageError(name, "belongs to a self-attention layer", "only text cross-attention is understood")
    widths = denoisers.text_widths(type(denoiser).__name__, denoiser.config)
    if widths is not None and layer.in_features not in widths:
        raise UsageError(
            name,
            f"reads {layer.in_features} features, and the text embedding has {sorted(widths)}",
            "it does not read the text: this architecture is not understood",
        )
    if not bool(torch.isfinite(weight).all()):
        raise UsageError(
            name, "its weights are not finite numbers", "the checkpoint is damaged: fetch it again"
        )
