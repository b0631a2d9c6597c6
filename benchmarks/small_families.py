"""Small random denoisers of every family whose settings say something about how text enters, as data.

Used by `benchmarks/families.py` and `tests/test_text_paths.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from small_denoisers import Draw, Inputs, SmallDenoiser

TOKENS, WIDTH = 5, 16  # of the text embedding


def _unet(shared: Inputs | None = None, text: Inputs | None = None, **settings: Any) -> SmallDenoiser:
    plain = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
    }
    channels, width = settings.get("in_channels", 4), settings.get("encoder_hid_dim", WIDTH)
    return SmallDenoiser(
        "UNet2DConditionModel",
        plain | settings,
        lambda draw: {
            "sample": draw(1, channels, 8, 8),
            "timestep": torch.tensor([10]),
            **(shared(draw) if shared else {}),
        },
        lambda draw: {"encoder_hidden_states": draw(1, TOKENS, width), **(text(draw) if text else {})},
    )


def _pooled(draw: Draw) -> dict[str, Any]:
    return {"added_cond_kwargs": {"text_embeds": draw(1, WIDTH), "time_ids": torch.full((1, 6), 8.0)}}


def _boxes(draw: Draw) -> dict[str, Any]:
    box = torch.tensor([[[0.1, 0.1, 0.6, 0.7]]])
    gligen = {"boxes": box, "masks": torch.ones(1, 1), "positive_embeddings": draw(1, 1, WIDTH)}
    return {"cross_attention_kwargs": {"gligen": gligen}}


_XL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 48 + WIDTH,
}
_SIMPLE: dict[str, Any] = {
    "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
}
_K: dict[str, Any] = {
    "down_block_types": ("KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"),
    "up_block_types": ("KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"),
    "mid_block_type": None,
    "block_out_channels": (32, 64, 64),
    "time_embedding_dim": 64,
    "layers_per_block": 4,
    "norm_num_groups": None,
    "resnet_time_scale_shift": "scale_shift",
    "time_cond_proj_dim": 12,
    "cross_attention_norm": "layer_norm",
    "conv_in_kernel": 1,
    "conv_out_kernel": 1,
}


def _transformer(
    kind: str, text: Inputs | None = None, shared: Inputs | None = None, **settings: Any
) -> SmallDenoiser:
    return SmallDenoiser(
        kind,
        {"in_channels": 4, "num_layers": 2, **settings},
        lambda draw: {
            "hidden_states": draw(1, 4, 8, 8),
            "timestep": torch.tensor([10.0]),
            **(shared(draw) if shared else {}),
        },
        text or (lambda draw: {"encoder_hidden_states": draw(1, TOKENS, 12)}),
    )


_PIXART: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 4,
    "out_channels": 8,
    "cross_attention_dim": 16,
}
_PIXART |= {"sample_size": 8, "caption_channels": 12}
_SANA: dict[str, Any] = {
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_cross_attention_heads": 2,
}
_SANA |= {"cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 12, "sample_size": 8}
_WAN: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "out_channels": 4, "text_dim": 12}
_WAN |= {"freq_dim": 8, "ffn_dim": 16}


def _no_size(draw: Draw) -> dict[str, Any]:
    return {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def _hunyuan_text(draw: Draw) -> dict[str, Any]:
    return {
        "encoder_hidden_states": draw(1, 4, 16),
        "text_embedding_mask": torch.ones(1, 4),
        "encoder_hidden_states_t5": draw(1, 4, 16),
        "text_embedding_mask_t5": torch.ones(1, 4),
    }


def _hunyuan_rest(draw: Draw) -> dict[str, Any]:
    rotary = (torch.ones(16, 8), torch.zeros(16, 8))
    sizes = {"image_meta_size": torch.full((1, 6), 8.0), "style": torch.zeros(1, dtype=torch.long)}
    return {**sizes, "image_rotary_emb": rotary}


def _lumina_rest(draw: Draw) -> dict[str, Any]:
    mask = torch.ones(1, TOKENS)
    rotary = torch.ones(384, 384, 4, dtype=torch.complex64)
    return {"encoder_mask": mask, "image_rotary_emb": rotary, "cross_attention_kwargs": {}}


# a name for people -> how to build it; those that are refused are built, saved and inspected, but not called
SMALL: Mapping[str, SmallDenoiser] = {
    "SD1, SD2": _unet(),
    "inpainting": _unet(in_channels=9),
    "x4 upscaler": _unet(
        lambda draw: {"class_labels": torch.tensor([3])}, in_channels=7, num_class_embeds=1000
    ),
    "latent consistency": _unet(lambda draw: {"timestep_cond": draw(1, 12)}, time_cond_proj_dim=12),
    "SDXL": _unet(text=_pooled, **_XL),
    "Kolors": _unet(text=_pooled, **_XL, encoder_hid_dim=24, encoder_hid_dim_type="text_proj"),
    "pooled text embedding": _unet(addition_embed_type="text", addition_embed_type_num_heads=4),
    "unCLIP": _unet(
        text=lambda draw: {"class_labels": draw(1, 12)},
        class_embed_type="projection",
        projection_class_embeddings_input_dim=12,
    ),
    "GLIGEN": _unet(text=_boxes, attention_type="gated"),
    "only_cross_attention": _unet(only_cross_attention=True),
    "latent upscaler": _unet(text=lambda draw: {"timestep_cond": draw(1, 12)}, **_K),
    "DeepFloyd IF": _unet(
        **_SIMPLE,
        encoder_hid_dim=24,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ),
    "Kandinsky 2.2": _unet(
        **_SIMPLE, encoder_hid_dim=24, encoder_hid_dim_type="image_proj", addition_embed_type="image"
    ),
    "Kandinsky 2.1": _unet(
        **_SIMPLE,
        encoder_hid_dim=24,
        encoder_hid_dim_type="text_image_proj",
        addition_embed_type="text_image",
    ),
    "AudioLDM": _unet(
        class_embed_type="simple_projection",
        class_embeddings_concat=True,
        projection_class_embeddings_input_dim=12,
    ),
    "PixArt": _transformer("PixArtTransformer2DModel", shared=_no_size, **_PIXART),
    "PixArt, old class": _transformer(
        "Transformer2DModel",
        shared=_no_size,
        patch_size=2,
        norm_type="ada_norm_single",
        num_embeds_ada_norm=1000,
        use_additional_conditions=False,
        norm_elementwise_affine=False,
        **_PIXART,
    ),
    "VQ-Diffusion": _transformer(
        "Transformer2DModel",
        shared=lambda draw: {"hidden_states": torch.arange(64)[None] % 12, "timestep": torch.tensor(10)},
        in_channels=None,
        num_attention_heads=4,
        attention_head_dim=4,
        cross_attention_dim=12,
        sample_size=8,
        num_vector_embeds=13,
        num_embeds_ada_norm=100,
        norm_type="ada_norm",
    ),
    "Sana": _transformer("SanaTransformer2DModel", **_SANA),
    "Sana Sprint": _transformer(
        "SanaTransformer2DModel",
        shared=lambda draw: {"guidance": torch.tensor([4.5])},
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
        **_SANA,
    ),
    "Hunyuan-DiT": _transformer(
        "HunyuanDiT2DModel",
        _hunyuan_text,
        _hunyuan_rest,
        sample_size=8,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=4,
        hidden_size=16,
        text_len=4,
        text_len_t5=4,
    ),
    "Wan": _transformer(
        "WanTransformer3DModel", shared=lambda draw: {"hidden_states": draw(1, 4, 2, 8, 8)}, **_WAN
    ),
    "Wan, image to video": _transformer("WanTransformer3DModel", **_WAN, image_dim=12, added_kv_proj_dim=24),
    "Lumina-Next": _transformer(
        "LuminaNextDiT2DModel",
        shared=_lumina_rest,
        sample_size=8,
        hidden_size=16,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=12,
    ),
}
