"""Checkpoints of every layout, built in code from the real diffusers classes, tiny and random."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

SD1_LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
SD1_MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
SD1_UP = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v"


def small_unet(**changes):
    """An SD1-shaped U-Net: four levels, two layers per block, attention in the first three."""
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8,
        "block_out_channels": (32, 32, 64, 64),
        "norm_num_groups": 8,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
    }
    torch.manual_seed(0)
    return UNet2DConditionModel(**(settings | changes))


def small_autoencoder():
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )


def small_text_encoder(width=24, with_projection=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(2)
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=260,
        max_position_embeddings=77,
        bos_token_id=258,
        eos_token_id=259,
        pad_token_id=259,
    )
    return (CLIPTextModelWithProjection if with_projection else CLIPTextModel)(config)


def small_tokenizer(folder: Path):
    """A byte-level CLIP tokenizer without merges."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 33 + 129)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder)


def small_pipeline(tmp: Path, unet=None):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=small_autoencoder(),
        text_encoder=small_text_encoder(),
        tokenizer=small_tokenizer(tmp / "tokenizer"),
        unet=unet or small_unet(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A plain Stable Diffusion 1 folder. Read only: copy it before changing it."""
    root = tmp_path_factory.mktemp("sd1")
    small_pipeline(root / "parts").save_pretrained(root / "model")
    return root / "model"
