"""The testbed's networks: Stable Diffusion 1's classes and block layout, small enough for a CPU.

With three cross-attention down blocks of two layers each, the seven value layers of the NeMo paper exist
under the names they have in Stable Diffusion 1. Latents are [4, 16, 16]; pictures are [3, 64, 64].
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from surgery.testbed.captions import MAXIMUM_TOKENS, write_tokenizer

LATENT_SIZE = 16
LATENT_CHANNELS = 4
TEXT_WIDTH = 128  # wider than the vocabulary is large: any word can be told from all others by one row


def build_autoencoder() -> AutoencoderKL:
    """[3, 64, 64] <-> [4, 16, 16]; the scaling factor is set once the latents' spread is known."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def build_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """A two-layer CLIP text encoder; token ids 0 and 1 are start and end of text.

    Tokens start large against what the layers add: else every word of a caption ends in nearly the same
    embedding, and no row could fire on one word alone.
    """
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAXIMUM_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "token_embedding" in name:
                parameter.normal_(0, 1.0)
            elif "position_embedding" in name:
                parameter.normal_(0, 0.2)
    return encoder


def build_unet() -> UNet2DConditionModel:
    """The denoiser: 3.3 million parameters, two heads (more are slow on a CPU at these widths)."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's noise schedule, sampled with DDIM."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer, written to `folder` as Stable Diffusion keeps it."""
    return write_tokenizer(folder)


def assemble(
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """The parts as one `StableDiffusionPipeline` without a safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Captions -> [count, 24] token ids, padded as the pipeline pads them."""
    encoded = tokenizer(
        captions, padding="max_length", max_length=MAXIMUM_TOKENS, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids
