"""Conditioning: what the denoiser is told about a prompt, as the pipeline itself would encode it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from surgery.denoisers import further_inputs
from surgery.errors import UsageError
from surgery.model.pipeline import LiveModel


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told about n prompts.

    Attributes:
        embeddings: [n, tokens, width], the text embeddings that the value layers read.
        added: further inputs, each [n, ...] (SDXL: `text_embeds` and `time_ids`); empty for SD1 and SD2.
    """

    embeddings: torch.Tensor
    added: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def select(self, index: torch.Tensor | slice) -> Conditioning:
        """The conditioning of some of the prompts, by position."""
        return Conditioning(
            self.embeddings[index], {name: value[index] for name, value in self.added.items()}
        )

    def repeat(self, times: int) -> Conditioning:
        """Each prompt `times` times in a row: [n * times, ...]."""
        added = {name: value.repeat_interleave(times, 0) for name, value in self.added.items()}
        return Conditioning(self.embeddings.repeat_interleave(times, 0), added)

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on a device."""
        added = {name: value.to(device) for name, value in self.added.items()}
        return Conditioning(self.embeddings.to(device), added)

    def join(self, other: Conditioning) -> Conditioning:
        """This conditioning, then the other's."""
        added = {name: torch.cat([value, other.added[name]]) for name, value in self.added.items()}
        return Conditioning(torch.cat([self.embeddings, other.embeddings]), added)


@torch.no_grad()
def encode_prompts(model: LiveModel, prompts: Sequence[str]) -> Conditioning:
    """Encode prompts with the pipeline's own text encoders.

    Prompts that are too long are cut as the pipeline cuts them.

    Raises:
        UsageError: `prompts` is empty, or the pipeline cannot encode text by itself.
    """
    if not prompts:
        raise UsageError("prompts", "there are none", "give at least one caption")
    encode = getattr(model.pipeline, "encode_prompt", None)
    if encode is None:
        raise UsageError(
            model.source, "its pipeline has no encode_prompt", "give a Stable Diffusion pipeline"
        )
    encoded = encode(
        prompt=list(prompts), device=model.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    embeddings = encoded[0].to(model.dtype)
    if not further_inputs(type(model.denoiser).__name__, model.denoiser.config):
        return Conditioning(embeddings)
    scale = model.pipeline.vae_scale_factor
    height, width = (side * scale for side in model.latent_shape[1:])
    time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=model.dtype, device=model.device)
    added = {"text_embeds": encoded[2].to(model.dtype), "time_ids": time_ids.repeat(len(prompts), 1)}
    return Conditioning(embeddings, added)


def count_cut_prompts(model: LiveModel, prompts: Sequence[str]) -> int:
    """How many of the prompts are longer than a tokenizer of the pipeline lets its text encoder read."""
    cut: set[int] = set()
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(model.pipeline, name, None)
        if tokenizer is None or not prompts:
            continue
        tokens = tokenizer(list(prompts), verbose=False)["input_ids"]
        cut |= {place for place, one in enumerate(tokens) if len(one) > tokenizer.model_max_length}
    return len(cut)
