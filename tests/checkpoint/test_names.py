"""The name tables, against diffusers' own converter and the real architectures (on the meta device)."""

from __future__ import annotations

import pytest
import torch
from checkpoint_builders import FAMILIES, single_file_tensors, small_unet, to_single_file_name

from surgery.checkpoint.names.single_file import split_single_file
from surgery.checkpoint.names.value_layers import (
    DIFFUSERS,
    EMA,
    SINGLE_FILE,
    value_like,
    value_name,
)

FULL_SIZE = {
    "SD1": ({"cross_attention_dim": 768}, 16, 12_480),
    "SD2": (
        {
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        16,
        12_480,
    ),
    "SDXL base": (
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "use_linear_projection": True,
        },
        70,
        83_200,
    ),
    "SDXL refiner": (
        {
            "block_out_channels": (384, 768, 1536, 1536),
            "down_block_types": (
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "attention_head_dim": (6, 12, 24, 24),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2560,
            "use_linear_projection": True,
        },
        44,
        None,
    ),
}


@pytest.mark.parametrize("family", FULL_SIZE)
def test_full_size_value_layers_have_the_names_that_diffusers_converts(family):
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    settings, layers, rows = FULL_SIZE[family]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
    tensors = single_file_tensors(unet)
    converted = convert_ldm_unet_checkpoint(dict(tensors), dict(unet.config))
    assert converted.keys() == unet.state_dict().keys()  # the test's own naming is diffusers' inverse

    value_layers = [key for key in unet.state_dict() if key.endswith("attn2.to_v.weight")]
    assert len(value_layers) == layers
    assert rows is None or sum(unet.state_dict()[key].shape[0] for key in value_layers) == rows
    for key in value_layers:
        layer = key.removesuffix(".weight")
        name = f"model.diffusion_model.{to_single_file_name(layer)}.weight"
        ours = value_name(name)
        assert ours is not None and (ours.naming, ours.layer, ours.kind) == (SINGLE_FILE, layer, "weight")
        assert name in tensors
        assert value_name(key).naming == DIFFUSERS and value_name(key).layer == layer


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_single_file_is_translated(family):
    unet = small_unet(family)
    tensors = single_file_tensors(unet, ema=True)
    split = split_single_file(tensors)
    assert split.keys() == {("unet", ""), ("unet", "EMA")}
    for variant in ("", "EMA"):
        names = split["unet", variant]
        assert names.keys() == unet.state_dict().keys()
        scale = 1.01 if variant else 1
        assert all(torch.equal(tensors[key], unet.state_dict()[name] * scale) for name, key in names.items())


def test_ema_names_are_recognised_for_every_value_layer():
    for family in FAMILIES:
        unet = small_unet(family)
        layers = {
            key.removesuffix(".weight") for key in unet.state_dict() if key.endswith("attn2.to_v.weight")
        }
        found = [value_name(key) for key in single_file_tensors(unet, ema=True)]
        assert {name.layer for name in found if name and name.naming == EMA} == layers


@pytest.mark.parametrize(
    "key",
    [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_v_ip.0.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.base_layer.weight",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v.lora_down.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_kv.weight",
        "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight",
        "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_v.weight",
        "backup.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight",
        "transformer_blocks.0.attn.add_v_proj.weight",
        "blocks.0.cross_attn.kv_linear.weight",
    ],
)
def test_look_alikes_are_not_taken_for_a_value_layer_but_noticed(key):
    assert value_name(key) is None
    assert value_like(key)
