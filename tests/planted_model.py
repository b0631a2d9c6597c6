"""A tiny StableDiffusionPipeline with memories built by hand: the neurons to find are known in advance.

Nothing is trained. Every token is a word of one letter. The text encoder passes the token embeddings through;
cross attention is uniform. A planted row of a value layer fires on one trigger word only, and its column of
`to_out` pushes the hidden state so far out that normalization wipes the latent away: the predicted noise is
then the same border pattern for every seed. A decoy row fires just as strongly and has a zero column: it does
nothing. Trigger words:

| word | rows that draw its memory |
|---|---|
| v | one row (plus a decoy in the same layer and one in another) |
| w | two rows of one layer, each enough by itself |
| x | two rows in different layers, each enough by itself; the later one is shared with y |
| y | the row shared with x |
| z | one row that stands out little (z-score near 3.5), so that theta must come down |
"""

import json
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from surgery.model.value_layers import block_of

WIDTH = (
    32  # of a text embedding: 16 pairs of dimensions (+c, -c), so that layer normalization changes nothing
)
TOKENS = 16
ORDINARY_WORDS = "abcdefghij"
LEFT, RIGHT = (
    "l",
    "r",
)  # opposite embeddings: they cancel in attention, but not in the mean of absolute values
PAIR_OF = {"v": 8, "w": 9, "x": 10, "y": 11, "z": 12, LEFT: 15, RIGHT: 15}
GAIN = 40.0
# Each block on the way out damps the push, so that deeper rows must push harder.
PUSH = {"down_blocks.0": 3e2, "down_blocks.1": 1e3, "down_blocks.2": 1e5, "mid_block": 1e7}


def layer(place: str) -> str:
    """The value layer of `down.BLOCK.ATTENTION` or `mid`."""
    stem = (
        "mid_block.attentions.0"
        if place == "mid"
        else "down_blocks.{1}.attentions.{2}".format(*place.split("."))
    )
    return f"{stem}.transformer_blocks.0.attn2.to_v"


PLANTED = {
    "v": [(layer("down.1.0"), 3)],
    "w": [(layer("down.2.1"), 1), (layer("down.2.1"), 6)],
    "x": [(layer("down.0.1"), 2), (layer("mid"), 5)],
    "y": [(layer("mid"), 5)],
    "z": [(layer("down.1.1"), 4)],
}
DECOYS = {"v": [(layer("down.1.0"), 5), (layer("down.2.0"), 0)], "z": [(layer("down.0.0"), 7)]}


def caption(trigger: str) -> str:
    """A memorized caption."""
    return f"a c {trigger} e"


def ordinary_captions(count: int, seed: int = 0) -> list[str]:
    """Different captions without a trigger word; half of them hold the pair `l r`."""
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        words = chance.choices(ORDINARY_WORDS, k=4)
        found[" ".join(words + ([LEFT, RIGHT] if chance.random() < 0.5 else []))] = None
    return list(found)


def planted_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Build the pipeline; `folder` receives the tokenizer's files."""
    torch.manual_seed(7)
    tokenizer = _tokenizer(folder)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    _plant(unet)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(4,), latent_channels=4, norm_num_groups=2, sample_size=16, layers_per_block=1
        ),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _tokenizer(folder: Path) -> CLIPTokenizer:
    words = [*ORDINARY_WORDS, LEFT, RIGHT, *PLANTED]
    tokens = ["<|startoftext|>", "<|endoftext|>", *words, *(f"{word}</w>" for word in words)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=TOKENS)


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).eval()
    weights = dict(encoder.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if "out_proj" in name or "fc2" in name or "position_embedding" in name:
                weight.zero_()
        table = next(weight for name, weight in weights.items() if "token_embedding" in name)
        table.zero_()
        for word in ORDINARY_WORDS:
            pairs = torch.zeros(WIDTH // 2)
            pairs[:8] = torch.randn(8)
            table[_token(tokenizer, word)] = _as_embedding(pairs)
        for word, place in PAIR_OF.items():
            pairs = torch.zeros(WIDTH // 2)
            pairs[place] = -1.0 if word == RIGHT else 1.0
            table[_token(tokenizer, word)] = _as_embedding(pairs)
    return encoder


def _token(tokenizer: CLIPTokenizer, word: str) -> int:
    return tokenizer.convert_tokens_to_ids(f"{word}</w>")


def _as_embedding(pairs: torch.Tensor) -> torch.Tensor:
    """16 coefficients -> 32 numbers with mean 0 and variance 1."""
    embedding = torch.stack([pairs, -pairs], dim=1).flatten()
    return embedding / embedding.pow(2).mean().sqrt()


def _direction(pair: int) -> torch.Tensor:
    """The row that gives 1 on the embedding of the word that owns the pair."""
    pairs = torch.zeros(WIDTH // 2)
    pairs[pair] = 1.0
    embedding = _as_embedding(pairs)
    return embedding / embedding.pow(2).sum()


@torch.no_grad()
def _plant(unet: UNet2DConditionModel) -> None:
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            module.weight.zero_()
        if name.endswith("attn2.to_v"):
            module.weight.normal_(std=0.002)
            module.weight[:, 16:] = 0  # what is not planted does not see the words of the upper pairs
    unet.conv_out.weight.mul_(30.0)
    push = torch.tensor([1.0, -2.0, 3.0, -1.0, 2.0, -3.0, 1.5, -2.5])
    for name, row in {
        neuron for rows in (PLANTED, DECOYS) for neurons in rows.values() for neuron in neurons
    }:
        # Or ordinary words would push as well.
        unet.get_submodule(name).weight[row] *= 300 / PUSH[block_of(name)]
    for rows, strength in ((PLANTED, 1.0), (DECOYS, 0.0)):
        for trigger, neurons in rows.items():
            for name, row in neurons:
                value = unet.get_submodule(name)
                value.weight[row] += GAIN * _direction(PAIR_OF[trigger])
                if trigger == "z":
                    value.weight[row] += 0.3 * GAIN * _direction(PAIR_OF[LEFT])
                unet.get_submodule(name.replace("to_v", "to_out.0")).weight[:, row] = (
                    strength * PUSH[block_of(name)] * push
                )
