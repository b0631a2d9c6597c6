"""The names of value layers in every naming that a checkpoint may use, as data.

Three namings are in the wild:

- diffusers: ``down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v.weight``
- single file (LDM, A1111, ComfyUI):
  ``model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_v.weight``, in files that hold only
  the denoiser also without ``model.diffusion_model.``
- the exponential moving average (EMA) inside a single file: the same without its dots,
  ``model_ema.diffusion_modelinput_blocks21transformer_blocks0attn2to_vweight``

The block table holds for every U-Net with two layers per block: SD1, SD2, SDXL base and refiner, inpainting.
Source: the block order of `UNetModel` in https://github.com/CompVis/latent-diffusion and the conversion in
diffusers' `loaders/single_file_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from surgery.denoisers import DENOISERS

DIFFUSERS, SINGLE_FILE, EMA = "diffusers", "single file", "EMA"
DENOISER_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema.diffusion_model"

# single-file block -> the diffusers module that is its attention
ATTENTION_BLOCKS = {
    "input_blocks.1.1": "down_blocks.0.attentions.0",
    "input_blocks.2.1": "down_blocks.0.attentions.1",
    "input_blocks.4.1": "down_blocks.1.attentions.0",
    "input_blocks.5.1": "down_blocks.1.attentions.1",
    "input_blocks.7.1": "down_blocks.2.attentions.0",
    "input_blocks.8.1": "down_blocks.2.attentions.1",
    "input_blocks.10.1": "down_blocks.3.attentions.0",
    "input_blocks.11.1": "down_blocks.3.attentions.1",
    "middle_block.1": "mid_block.attentions.0",
    "output_blocks.0.1": "up_blocks.0.attentions.0",
    "output_blocks.1.1": "up_blocks.0.attentions.1",
    "output_blocks.2.1": "up_blocks.0.attentions.2",
    "output_blocks.3.1": "up_blocks.1.attentions.0",
    "output_blocks.4.1": "up_blocks.1.attentions.1",
    "output_blocks.5.1": "up_blocks.1.attentions.2",
    "output_blocks.6.1": "up_blocks.2.attentions.0",
    "output_blocks.7.1": "up_blocks.2.attentions.1",
    "output_blocks.8.1": "up_blocks.2.attentions.2",
    "output_blocks.9.1": "up_blocks.3.attentions.0",
    "output_blocks.10.1": "up_blocks.3.attentions.1",
    "output_blocks.11.1": "up_blocks.3.attentions.2",
}

_ATTENTIONS = "|".join(dict.fromkeys(one.attentions for one in DENOISERS.values()))
_DIFFUSERS_VALUE = re.compile(rf"(?P<layer>(?:{_ATTENTIONS})attn2\.to_v)\.(?P<kind>weight|bias)")
_SINGLE_FILE_VALUE = re.compile(
    r"(?P<prefix>(?:model\.diffusion_model\.)?)"
    r"(?P<block>(?:input_blocks|output_blocks)\.\d+\.\d+|middle_block\.\d+)"
    r"\.(?P<rest>transformer_blocks\.\d+\.attn2\.to_v)\.(?P<kind>weight|bias)"
)
_EMA_VALUE = re.compile(
    r"model_ema\.diffusion_model(?P<stage>input_blocks|middle_block|output_blocks)(?P<digits>\d+)"
    r"transformer_blocks(?P<depth>\d+)attn2to_v(?P<kind>weight|bias)"
)
# Whatever smells of a cross-attention value projection: a file outside the denoiser with such a name, or a
# name of this kind that none of the namings explains, is never carried over unseen.
_VALUE_LIKE = re.compile(
    r"attn2[._]?to_(v|kv|qkv)(?=weight|bias|[^a-z]|$)|attn2\.processor|cross_attn[._](v|kv|to_v)|kv_linear|add_v_proj"
)


@dataclass(frozen=True, slots=True)
class ValueName:
    """The name of a value layer's tensor: its naming, diffusers layer name, and `weight` or `bias`."""

    naming: str
    layer: str
    kind: str


@dataclass(frozen=True, slots=True)
class RefusedName:
    """A pattern of tensor names that `patch` refuses, with the cause and the way out it prints."""

    pattern: re.Pattern[str]
    cause: str
    way_out: str


REFUSED_NAMES = (
    RefusedName(
        re.compile(
            r"quant_state|\.SCB$|\.absmax$|\.quant_map$|(^|\.)scaled_fp8$|\.scale_weight$|\.(qweight|qzeros)$"
        ),
        "holds quantized weights",
        "patch the unquantized checkpoint, then quantize it again",
    ),
    RefusedName(
        re.compile(
            r"lora_(A|B|down|up|unet|te)|\.lora\.|base_layer\.|lora_magnitude_vector|\.(hada|lokr|oft)_"
        ),
        "holds unmerged LoRA weights, which refill zeroed rows",
        "merge the adapter (pipeline.fuse_lora, unload_lora_weights), save, and patch that",
    ),
    RefusedName(
        re.compile(r"to_[kv]_ip(\.|$)|(^|\.)ip_adapter\.|attn2\.processor\."),
        "holds an IP-Adapter beside the value layers",
        "unload it (pipeline.unload_ip_adapter), save, and patch that",
    ),
    RefusedName(
        re.compile(r"attn2\.to_(kv|qkv)\."),
        "holds fused projections with a second copy of the value rows",
        "call unfuse_qkv_projections() and save the pipeline again",
    ),
    RefusedName(
        re.compile(r"(^|\.)kv_linear\."),
        "holds fused key-value projections (the original Sana layout)",
        "patch the diffusers folder of the model instead",
    ),
    RefusedName(
        re.compile(
            r"joint_blocks\.|double_blocks\.|double_layers\.|single_transformer_blocks\.|add_[kv]_proj\."
        ),
        "is of a joint-attention architecture (SD3, Flux), where no attn2.to_v reads the text alone",
        "no way around it: neurons are rows of text cross-attention value layers",
    ),
    RefusedName(
        re.compile(r"\.transformers\.[01]\.transformer_blocks\."),
        "has dual cross-attention (Versatile Diffusion), where attn2 means two things",
        "no way around it: neurons are rows of one text cross-attention",
    ),
)


def value_name(key: str) -> ValueName | None:
    """Recognize the name of a value layer's weight or bias in any naming; None for any other tensor.

    The match is anchored at both ends, so that `attn2.processor.to_v_ip.0.weight`, `attn2.to_v.lora_A.weight`
    and the like are not taken for it.
    """
    if match := _DIFFUSERS_VALUE.fullmatch(key):
        return ValueName(DIFFUSERS, match["layer"], match["kind"])
    if match := _SINGLE_FILE_VALUE.fullmatch(key):
        return _named(SINGLE_FILE, match["block"], match["rest"], match["kind"])
    if match := _EMA_VALUE.fullmatch(key):
        # Without dots `input_blocks.11.1` reads `input_blocks111`: attention is always the block's entry 1.
        number, entry = match["digits"][:-1], match["digits"][-1]
        block = ".".join(part for part in (match["stage"], number, entry) if part)
        return _named(EMA, block, f"transformer_blocks.{match['depth']}.attn2.to_v", match["kind"])
    return None


def value_like(key: str) -> bool:
    """Whether a tensor name smells of a cross-attention value projection, known naming or not."""
    return _VALUE_LIKE.search(key) is not None


def refused_name(keys: Iterable[str]) -> tuple[str, RefusedName] | None:
    """The first of the given tensor names that stands for something `patch` refuses, and why."""
    for key in keys:
        for refused in REFUSED_NAMES:
            if refused.pattern.search(key):
                return key, refused
    return None


def _named(naming: str, block: str, rest: str, kind: str) -> ValueName | None:
    module = ATTENTION_BLOCKS.get(block)
    return ValueName(naming, f"{module}.{rest}", kind) if module else None
