"""Diffusion transformers whose attn2 reads the text: a bias entry is zeroed with its row."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery.errors import UsageError


def small_pixart():
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=12,
    )


def small_sana():
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
    )


def small_hunyuan():
    from diffusers import HunyuanDiT2DModel

    return HunyuanDiT2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        cross_attention_dim_t5=12,
        pooled_projection_dim=4,
        hidden_size=16,
        text_len=4,
        text_len_t5=4,
    )


def small_lumina():
    from diffusers import LuminaNextDiT2DModel

    return LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=12,
    )


def small_wan():
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=8,
        ffn_dim=16,
        num_layers=2,
    )


@pytest.mark.parametrize(
    ("build", "layer", "family"),
    [
        (small_pixart, "transformer_blocks.1.attn2.to_v", "PixArt"),
        (small_sana, "transformer_blocks.0.attn2.to_v", "Sana"),
        (small_hunyuan, "blocks.1.attn2.to_v", "Hunyuan-DiT"),
        (small_wan, "blocks.1.attn2.to_v", "Wan"),
        (small_lumina, "layers.1.attn2.to_v", "Lumina-Next"),
    ],
)
def test_bias_is_zeroed_with_its_row(build, layer, family, tmp_path):
    torch.manual_seed(0)
    transformer = build()
    if transformer.get_submodule(layer).bias is not None:  # Lumina-Next has none
        torch.nn.init.normal_(transformer.get_submodule(layer).bias)
    transformer.save_pretrained(tmp_path / "source")
    assert surgery.inspect_checkpoint(tmp_path / "source").family == family
    result = surgery.patch(tmp_path / "source", {layer: [2, 5]}, tmp_path / "out")

    loaded = type(transformer).from_pretrained(result.output)
    for name, tensor in transformer.state_dict().items():
        expected = tensor.clone()
        if name in (f"{layer}.weight", f"{layer}.bias"):
            expected[[2, 5]] = 0
        assert loaded.state_dict()[name].equal(expected), name
    module = loaded.get_submodule(layer)
    assert module(torch.randn(3, module.in_features))[:, [2, 5]].count_nonzero() == 0
    assert surgery.diff(tmp_path / "source", result.output, plan={layer: [2, 5]}).as_planned


def test_bias_in_another_shard_is_found(tmp_path):
    layer = "transformer_blocks.1.attn2.to_v"
    transformer = small_pixart()
    with torch.no_grad():
        transformer.get_submodule(layer).bias.normal_()
    transformer.save_pretrained(tmp_path / "source", max_shard_size="1KB")
    result = surgery.patch(tmp_path / "source", {layer: [2]}, tmp_path / "out")
    (copy,) = result.copies
    assert copy.layers[layer].file != copy.layers[layer].bias_file
    assert type(transformer).from_pretrained(result.output).get_submodule(layer).bias[2] == 0


def small_sd3():
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        dual_attention_layers=(0,),
    )


def small_flux():
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )


@pytest.mark.parametrize("build", [small_sd3, small_flux])
def test_joint_attention_is_refused_as_folder_and_as_file(build, tmp_path):
    build().save_pretrained(tmp_path / "source")
    rows = {"transformer_blocks.0.attn2.to_v": [0]}
    with pytest.raises(UsageError, match="mixes text and image in one attention"):
        surgery.patch(tmp_path / "source", rows, tmp_path / "out")
    with pytest.raises(UsageError, match="joint-attention"):
        surgery.patch(
            tmp_path / "source" / "diffusion_pytorch_model.safetensors", rows, tmp_path / "o.safetensors"
        )
    assert "refuse" not in (surgery.inspect_checkpoint(tmp_path / "source").refusal or "refuse")


def test_sd35_second_attention_reads_images(tmp_path):
    small_sd3().save_pretrained(tmp_path / "source")
    names = load_file(tmp_path / "source" / "diffusion_pytorch_model.safetensors")
    assert "transformer_blocks.0.attn2.to_v.weight" in names  # the trap: the name alone would pass
