"""What a checkpoint is called: by settings that tell families apart, not by the width of the text alone."""

from __future__ import annotations

import pytest
from checkpoint_builders import save_single_file, single_file_tensors, small_unet

import surgery
from surgery.checkpoint.names.denoisers import family_of, settings_of_file
from surgery.checkpoint.names.families import PIPELINE_FAMILIES

UNET = {"_class_name": "UNet2DConditionModel", "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
SIMPLE = {"down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"]}
XL = {"addition_embed_type": "text_time"}


@pytest.mark.parametrize(
    ("settings", "pipeline", "family"),
    [
        ({"cross_attention_dim": 768}, "", "SD1"),
        ({"cross_attention_dim": 768, "in_channels": 9}, "", "SD1, inpainting"),
        ({"cross_attention_dim": 768, "attention_type": "gated"}, "", "SD1, GLIGEN"),
        ({"cross_attention_dim": 1024}, "", "SD2"),
        ({"cross_attention_dim": 1024, "class_embed_type": "projection"}, "", "SD2 unCLIP"),
        ({"cross_attention_dim": 1024, "in_channels": 7}, "", "SD2, upscaler"),
        (XL | {"cross_attention_dim": 2048}, "", "SDXL base"),
        (XL | {"cross_attention_dim": 1280}, "", "SDXL refiner"),
        (XL | {"cross_attention_dim": 2048, "encoder_hid_dim_type": "text_proj"}, "", "Kolors"),
        (SIMPLE | {"cross_attention_dim": 1280, "addition_embed_type": "text"}, "", "DeepFloyd IF"),
        (SIMPLE | {"cross_attention_dim": 768, "addition_embed_type": "image"}, "", "Kandinsky 2.2"),
        (SIMPLE | {"cross_attention_dim": 768, "addition_embed_type": "text_image"}, "", "Kandinsky 2.1"),
        ({"cross_attention_dim": [128, 256], "class_embeddings_concat": True}, "", "AudioLDM"),
        ({"down_block_types": ["KDownBlock2D", "KCrossAttnDownBlock2D"]}, "", "latent upscaler"),
        ({"cross_attention_dim": 768}, "StableDiffusionImageVariationPipeline", "SD image variations"),
        ({"cross_attention_dim": 768}, "AltDiffusionPipeline", "AltDiffusion"),
        ({"cross_attention_dim": 768}, "StableDiffusionImg2ImgPipeline", "SD1"),
        ({"cross_attention_dim": 2048}, "", "U-Net (text width 2048)"),
        ({"cross_attention_dim": 24}, "", "U-Net (text width 24)"),
    ],
)
def test_family_of_a_u_net(settings, pipeline, family):
    assert family_of(UNET | settings, pipeline) == family


def test_pipelines_that_tell_a_family_exist():
    import diffusers

    for start in PIPELINE_FAMILIES:
        assert [name for name in dir(diffusers) if name.startswith(start) and name.endswith("Pipeline")]


@pytest.mark.parametrize(
    ("width", "names", "family"),
    [
        (768, [], "SD1"),
        (1024, [], "SD2"),
        (1024, ["label_emb.0.0.weight"], "SD2 unCLIP"),
        (2048, ["label_emb.0.0.weight"], "SDXL base"),
        (1280, ["add_embedding.linear_1.weight"], "SDXL refiner"),
        (2048, ["add_embedding.linear_1.weight", "encoder_hid_proj.weight"], "Kolors"),
        (768, ["position_net.linears.0.weight"], "SD1, GLIGEN"),
        (2048, [], "U-Net (text width 2048)"),
    ],
)
def test_family_of_a_file_by_its_tensors(width, names, family):
    assert family_of(settings_of_file(dict.fromkeys(names), width)) == family


def test_a_single_file_of_sdxl_tells_its_pooled_prompt(tmp_path):
    unet = small_unet("SDXL base", cross_attention_dim=2048)
    source = save_single_file(tmp_path / "xl.safetensors", single_file_tensors(unet))
    found = surgery.inspect_checkpoint(source)
    assert found.family == "SDXL base"
    assert found.text_paths == (
        "with addition_embed_type text_time, the pooled prompt is added to the time embedding",
    )
