"""Checkpoints of every layout, built in code from the real diffusers classes, tiny and random."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

DOWN = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
SMALL = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64, 64),
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
_XL = {
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 72,
}
# family -> what makes its U-Net different; the block structure is the real one, only widths are small
FAMILIES = {
    "SD1": {},
    "SD2": {"cross_attention_dim": 32, "use_linear_projection": True},
    "inpainting": {"in_channels": 9},
    "SDXL base": _XL,
    "SDXL refiner": _XL
    | {
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 2,
    },
}


def small_unet(family: str = "SD1", **changes):
    """A U-Net with the block structure of a family."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(**(SMALL | FAMILIES[family] | changes)).eval()


def small_autoencoder():
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )


def small_text_encoder(width: int = 24):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(2)
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_attention_heads=4,
            num_hidden_layers=2,
            vocab_size=260,
            max_position_embeddings=77,
            bos_token_id=258,
            eos_token_id=259,
            pad_token_id=259,
        )
    )


def small_tokenizer(folder: Path):
    """A byte-level CLIP tokenizer without merges."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 33 + 129)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder)


def small_pipeline(scratch: Path, unet=None):
    """A Stable Diffusion 1 pipeline."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=small_autoencoder(),
        text_encoder=small_text_encoder(),
        tokenizer=small_tokenizer(scratch / "tokenizer"),
        unet=unet or small_unet(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_neurons(path: Path, layers: dict[str, list[int]], **fields) -> Path:
    """A `neurons.json`."""
    path.write_text(json.dumps({"format": "surgery.neurons/1", "layers": layers} | fields))
    return path


def to_single_file_name(key: str) -> str:
    """The single-file name of a diffusers U-Net tensor, counted out block by block (two layers per block)."""
    fixed = {
        "conv_in.": "input_blocks.0.0.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "add_embedding.linear_1.": "label_emb.0.0.",
        "add_embedding.linear_2.": "label_emb.0.2.",
        "mid_block.resnets.0.": "middle_block.0.",
        "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
    }
    parts = key.split(".")
    stem = key
    for start, replacement in fixed.items():
        if key.startswith(start):
            stem = replacement + key.removeprefix(start)
    if parts[0] == "down_blocks":
        level, kind, layer, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
        if kind == "downsamplers":
            stem = f"input_blocks.{3 * (level + 1)}.0.op." + rest.removeprefix("conv.")
        else:
            stem = f"input_blocks.{1 + 3 * level + layer}.{0 if kind == 'resnets' else 1}.{rest}"
    if parts[0] == "up_blocks":
        level, kind, layer, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
        if kind == "upsamplers":
            # the upsampler follows the attention of the level's last layer, or its residual block
            stem = f"output_blocks.{3 * level + 2}.@{level}.{rest}"
        else:
            stem = f"output_blocks.{3 * level + layer}.{0 if kind == 'resnets' else 1}.{rest}"
    for name, original in {
        "norm1.": "in_layers.0.",
        "conv1.": "in_layers.2.",
        "norm2.": "out_layers.0.",
        "conv2.": "out_layers.3.",
        "time_emb_proj.": "emb_layers.1.",
        "conv_shortcut.": "skip_connection.",
    }.items():
        if "transformer_blocks" not in stem and "resnets" in key:
            stem = stem.replace("." + name, "." + original)
    return stem


def single_file_tensors(
    unet, prefix: str = "model.diffusion_model.", ema: bool = False
) -> dict[str, torch.Tensor]:
    """The U-Net's tensors under single-file names, with an EMA twin (slightly other weights) if asked for."""
    state = unet.state_dict()
    with_attention = {
        int(key.split(".")[1]) for key in state if key.startswith("up_blocks.") and "attn2" in key
    }
    tensors = {}
    for key, value in state.items():
        name = to_single_file_name(key)
        if "@" in name:
            before, _, after = name.partition("@")
            level, _, rest = after.partition(".")
            name = f"{before}{2 if int(level) in with_attention else 1}.{rest}"
        tensors[prefix + name] = value.contiguous()
    if ema:
        for name in list(tensors):
            flat = name.removeprefix(prefix).replace(".", "")
            tensors[f"model_ema.diffusion_model{flat}"] = tensors[name] * 1.01
    return tensors


def vae_and_text_tensors(pipeline) -> dict[str, torch.Tensor]:
    """A pipeline's autoencoder and text encoder under Stable Diffusion 1's single-file names."""
    tensors = {}
    levels = len(pipeline.vae.config.block_out_channels)
    for key, value in pipeline.vae.state_dict().items():
        parts = key.split(".")
        if parts[1] in ("down_blocks", "up_blocks"):
            level = int(parts[2]) if parts[1] == "down_blocks" else levels - 1 - int(parts[2])
            direction = parts[1].removesuffix("_blocks")
            kind = f"block.{parts[4]}" if parts[3] == "resnets" else parts[3].removesuffix("rs")
            key = ".".join([parts[0], direction, str(level), kind, *parts[5:]])
        for name, original in {
            "mid_block.resnets.0": "mid.block_1",
            "mid_block.resnets.1": "mid.block_2",
            "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
            "mid_block.attentions.0.to_q": "mid.attn_1.q",
            "mid_block.attentions.0.to_k": "mid.attn_1.k",
            "mid_block.attentions.0.to_v": "mid.attn_1.v",
            "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
            "conv_norm_out": "norm_out",
            "conv_shortcut": "nin_shortcut",
        }.items():
            key = key.replace(name, original)
        is_projection = "attn_1" in key and value.ndim == 2
        tensors["first_stage_model." + key] = value[:, :, None, None].contiguous() if is_projection else value
    for key, value in pipeline.text_encoder.state_dict().items():
        name = key if key.startswith("text_model.") else f"text_model.{key}"
        tensors["cond_stage_model.transformer." + name] = value
    return tensors


def save_single_file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata={"format": "pt"})
    return path
