"""Pictures and predictions of what a denoiser is told by tensors instead of prompts.

Attacks learn embeddings, or what is added to them; here these are asked of the denoiser, and drawn by the
pipeline's own sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from surgery.auditing.drawing import Drawing
from surgery.errors import SurgeryError
from surgery.measures.pictures import from_images
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import latents_of_seeds
from surgery.model.pipeline import LiveModel

# (places of conditions [samples]) -> what holds while the pipeline draws these samples
Around = Callable[[torch.Tensor], AbstractContextManager[None]]


def predicted(
    model: LiveModel, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
) -> torch.Tensor:
    """What the denoiser says about n latents at n timesteps: float32 [n, channels, height, width].

    Args:
        latents: of any floating-point type, on any device.
        conditioning: of n samples; gradients reach its embeddings, and the latents.
    """
    output: torch.Tensor = model.denoiser(
        latents.to(model.device, model.dtype),
        timesteps.to(model.device),
        encoder_hidden_states=conditioning.embeddings.to(model.dtype),
        added_cond_kwargs=conditioning.added or None,
        return_dict=False,
    )[0]
    return output.float()


def smaller(batch: int) -> int:
    """Half of a batch for which memory ran out.

    Raises:
        SurgeryError: it was a single sample.
    """
    if batch == 1:
        raise SurgeryError("memory", "runs out for a single sample", "use another device") from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return batch // 2


@torch.no_grad()
def draw_conditioned(
    model: LiveModel,
    conditioning: Conditioning,
    seeds: Sequence[int],
    drawing: Drawing,
    around: Around | None = None,
) -> torch.Tensor:
    """Draw pictures from embeddings instead of prompts, every one at every seed.

    Args:
        around: what holds while samples are drawn, told which condition each of them belongs to.

    Returns:
        uint8 [conditions, seeds, 3, height, width].

    Raises:
        SurgeryError: memory runs out for a single picture.
    """
    repeated = conditioning.repeat(len(seeds))
    places = torch.arange(len(conditioning)).repeat_interleave(len(seeds))
    latents = latents_of_seeds(model, seeds).repeat(len(conditioning), 1, 1, 1)
    parts: list[torch.Tensor] = []
    start, batch = 0, drawing.batch_size
    while start < len(repeated):
        taken = slice(start, start + batch)
        part = repeated.select(taken)
        pooled = {"pooled_prompt_embeds": part.added["text_embeds"]} if "text_embeds" in part.added else {}
        try:
            with around(places[taken]) if around is not None else nullcontext():
                drawn = model.pipeline(
                    prompt_embeds=part.embeddings,
                    latents=latents[taken].to(model.device, model.dtype),
                    num_inference_steps=drawing.steps,
                    guidance_scale=drawing.guidance,
                    **pooled,
                )
        except torch.OutOfMemoryError:
            batch = smaller(batch)
        else:
            parts.append(from_images(drawn.images))
            start += len(part)
    pictures = torch.cat(parts)
    return pictures.view(len(conditioning), len(seeds), *pictures.shape[1:])
