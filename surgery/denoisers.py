"""The one table of denoisers: which classes are understood, how text enters them, what is refused and why.

Both wings read it. The bytes wing (`surgery.checkpoint.names`) knows a denoiser by its `config.json` and its
tensors' names, the model wing (`surgery.model.value_layers`) by its live class. A new family is a new entry
of `DENOISERS`. A class belongs there when its `attn2.to_v` is known to read the text embedding and nothing
else. Text that also goes round its value layers, where no edit of them reaches it, is told per class
(`TextPath`); `tests/test_text_paths.py` and `benchmarks/families.py` measure that what is told is true.
Sources: the model definitions in diffusers' `models/unets/` and `models/transformers/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BLOCKS = ("down", "mid", "up")
PUBLISHED_BLOCKS = ("down", "mid")  # the NeMo paper found hardly any effect in the up blocks
PROJECTIONS = {"value": "to_v", "key": "to_k"}
TEXT_ATTENTION = "attn2"  # the module that is text cross-attention, in every class of the table


@dataclass(frozen=True, slots=True)
class TextPath:
    """A way by which text enters a denoiser without passing a value layer: zeroed rows cannot close it.

    Attributes:
        sentence: the way, for people.
        setting: the setting that opens it; "" where every model of the class has it.
        values: the values of the setting that open it; empty for any that is true.
    """

    sentence: str
    setting: str = ""
    values: tuple[str, ...] = ()

    def is_open(self, configuration: Mapping[str, Any]) -> bool:
        """Whether a denoiser with these settings has it."""
        if not self.setting:
            return True
        held = listed(configuration.get(self.setting))
        return any(each in self.values for each in held) if self.values else any(held)


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
        text_paths: how text may go round the value layers.
    """

    family: str
    attentions: str
    width_setting: str = "cross_attention_dim"
    conditioning: Mapping[str | None, tuple[str, ...]] = field(default_factory=dict)
    text_paths: tuple[TextPath, ...] = ()


_ADDED = "is added to the time embedding"
_ATTENTION_PATHS = (
    TextPath("with only_cross_attention, attn1 reads the text too", "only_cross_attention"),
    TextPath(
        "with attention_type gated (GLIGEN), the phrases of boxes enter through gated self-attention",
        "attention_type",
        ("gated", "gated-text-image"),
    ),
)
_UNET_PATHS = (
    TextPath(
        f"with addition_embed_type text, the pooled text embedding {_ADDED}", "addition_embed_type", ("text",)
    ),
    TextPath(
        f"with addition_embed_type text_time, the pooled prompt {_ADDED}",
        "addition_embed_type",
        ("text_time",),
    ),
    TextPath(
        f"with addition_embed_type text_image, the pooled prompt {_ADDED}",
        "addition_embed_type",
        ("text_image",),
    ),
    TextPath(
        f"with class_embed_type, an embedding {_ADDED}, which a prior may make of the prompt (unCLIP)",
        "class_embed_type",
        ("projection", "simple_projection", "identity"),
    ),
    TextPath(
        f"the pooled prompt {_ADDED} as a condition (the latent upscaler)",
        "down_block_types",
        ("KCrossAttnDownBlock2D",),
    ),
    *_ATTENTION_PATHS,
)
_UNET_INPUTS = {None: (), "text": (), "text_time": ("text_embeds", "time_ids")}
_UNET, _STACK = r"(?:down_blocks|up_blocks|mid_block)\.[a-z0-9_.]*", r"transformer_blocks\.\d+\."
DENOISERS: Mapping[str, Denoiser] = {
    "UNet2DConditionModel": Denoiser("U-Net", _UNET, conditioning=_UNET_INPUTS, text_paths=_UNET_PATHS),
    "PixArtTransformer2DModel": Denoiser("PixArt", _STACK, text_paths=_ATTENTION_PATHS),
    "Transformer2DModel": Denoiser("PixArt", _STACK, text_paths=_ATTENTION_PATHS),
    "SanaTransformer2DModel": Denoiser("Sana", _STACK),
    "HunyuanDiT2DModel": Denoiser(
        "Hunyuan-DiT", r"blocks\.\d+\.", text_paths=(TextPath(f"the pooled T5 embedding {_ADDED}"),)
    ),
    "WanTransformer3DModel": Denoiser("Wan", r"blocks\.\d+\.", width_setting=""),
    "LuminaNextDiT2DModel": Denoiser(
        "Lumina-Next", r"layers\.\d+\.", text_paths=(TextPath(f"the mean text embedding {_ADDED}"),)
    ),
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
# setting -> what is wrong where it is true
_REFUSED_SETTINGS: Mapping[str, str] = {
    "double_self_attention": f"with double_self_attention, {TEXT_ATTENTION} is not text cross-attention",
    "dual_cross_attention": f"with dual_cross_attention, {TEXT_ATTENTION} is not text cross-attention",
    "class_embeddings_concat": f"with class_embeddings_concat (AudioLDM), the text is a class label, and "
    f"{TEXT_ATTENTION} reads none",
    "added_kv_proj_dim": "its cross-attention reads images as well as text",
}
_IMAGE_READERS = ("image_proj", "ip_image_proj", "text_image_proj")  # values of encoder_hid_dim_type
_ADDED_ATTENTION = "SimpleCrossAttn"  # block types in which text joins the self-attention of the image

_IMAGE = f"feeds {TEXT_ATTENTION} the embedding of an image"
# pipeline class -> what it feeds a denoiser of a known class, as the end of a sentence that begins with it
OTHER_FEEDS: Mapping[str, str] = {
    "StableDiffusionImageVariationPipeline": _IMAGE,
    "PaintByExamplePipeline": _IMAGE,
    "VersatileDiffusionImageVariationPipeline": _IMAGE,
    "AudioLDMPipeline": f"gives the text as a class label, and {TEXT_ATTENTION} reads none",
    "MusicLDMPipeline": f"gives the text as a class label, and {TEXT_ATTENTION} reads none",
    "AudioDiffusionPipeline": f"feeds {TEXT_ATTENTION} an encoding of audio",
}
_TEXT_READERS = ("tokenizer", "text_encoder", "bert", "processor")  # how such components' names begin


def class_refusal(name: str) -> str | None:
    """Why a denoiser of the class can't be edited, or None."""
    if name in REFUSED_CLASSES:
        return f"{name} {REFUSED_CLASSES[name]}"
    return None if name in DENOISERS else f"the denoiser class {name} is not known"


def settings_refusal(configuration: Mapping[str, Any]) -> str | None:
    """Why a denoiser of a known class can't be edited with these settings, or None."""
    for setting, cause in _REFUSED_SETTINGS.items():
        if configuration.get(setting):
            return cause
    if configuration.get("encoder_hid_dim_type") in _IMAGE_READERS:
        return "its cross-attention reads images as well as text"
    if any(_ADDED_ATTENTION in str(each) for each in listed(configuration.get("down_block_types"))):
        return f"its text is added to the image's self-attention ({_ADDED_ATTENTION} blocks)"
    return None


def feeding_refusal(pipeline: str, components: Iterable[str]) -> str | None:
    """Why the denoiser of a pipeline can't be edited for what its `attn2` is fed, or None.

    Args:
        pipeline: the class of the pipeline.
        components: the names of all its components, absent ones too.
    """
    if pipeline in OTHER_FEEDS:
        return f"its pipeline ({pipeline}) {OTHER_FEEDS[pipeline]}"
    if not any(name.startswith(_TEXT_READERS) for name in components):
        shown = f" ({pipeline})" if pipeline else ""
        return f"no component of its pipeline{shown} reads text: {TEXT_ATTENTION} is fed something else"
    return None


def open_text_paths(name: str, configuration: Mapping[str, Any]) -> list[str]:
    """How text goes round the value layers of a denoiser with these settings, one sentence each."""
    known = DENOISERS.get(name)
    return [path.sentence for path in known.text_paths if path.is_open(configuration)] if known else []


def live_refusal(name: str, configuration: Mapping[str, Any]) -> str | None:
    """Why a live denoiser can't be localized (its neurons may still be patched by hand), or None."""
    if refused := class_refusal(name) or settings_refusal(configuration):
        return refused
    if not DENOISERS[name].conditioning:
        return f"a {name} ({DENOISERS[name].family}) can be patched, but not localized or audited yet"
    if projected := configuration.get("encoder_hid_dim_type"):
        return f"it projects its text again (encoder_hid_dim_type {projected!r})"
    if labels := configuration.get("class_embed_type"):
        return f"it is told more than the prompt (class_embed_type {labels!r})"
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


def listed(value: Any) -> tuple[Any, ...]:
    """A setting that may be given once or per block, as a tuple."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
