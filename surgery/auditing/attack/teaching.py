"""Pictures with captions, taught to a denoiser: the lessons of the attacks on the weights, and of canaries.

Each step takes `batch` lessons, drawn by chance with replacement, and a fresh noise and timestep for each.
All chance comes from one CPU generator, so that neither the device nor the batch size changes the course of
the teaching beyond rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from surgery.auditing.attack.noised_copies import frozen, noised_copies
from surgery.measures.pictures import encode_pictures
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.finetuning import Finetuning, Samples, accumulate, finish_gradients
from surgery.model.pipeline import LiveModel


@dataclass(frozen=True)
class Lessons:
    """Pictures with captions, as a denoiser reads them.

    Attributes:
        latents: scaled, float32 [n, channels, height, width], on the CPU.
        conditioning: of the n captions.
    """

    latents: torch.Tensor
    conditioning: Conditioning

    def __len__(self) -> int:
        return len(self.latents)

    def join(self, other: Lessons) -> Lessons:
        """These lessons, then the others."""
        return Lessons(torch.cat([self.latents, other.latents]), self.conditioning.join(other.conditioning))


def lessons(model: LiveModel, images: torch.Tensor, captions: Sequence[str]) -> Lessons:
    """Lessons from pictures uint8 [n, 3, height, width] and their n captions."""
    return Lessons(encode_pictures(model, images), encode_prompts(model, list(captions)))


def samples_of(
    model: LiveModel, taught: Lessons, chosen: torch.Tensor, generator: torch.Generator
) -> Samples:
    """The chosen lessons [batch] under fresh noise."""
    copies = [noised_copies(model, taught.latents[int(one)], 1, [generator]) for one in chosen]
    return Samples(
        noised=torch.cat([one.noised for one in copies]),
        wanted=torch.cat([one.wanted for one in copies]),
        timesteps=torch.cat([one.timesteps for one in copies]),
        conditioning=taught.conditioning,
        caption=chosen,
    )


def teach(
    finetuning: Finetuning, taught: Lessons, curve: Sequence[int], batch: int, generator: torch.Generator
) -> Iterator[int]:
    """Teach, stopping after each of the `curve`'s numbers of steps, which rise.

    Yields:
        The steps made so far; what was learnt may be looked at before the next is asked for.

    Raises:
        SurgeryError: see `Finetuning.step`.
    """
    made = 0
    for point in curve:
        for _ in range(point - made):
            chosen = torch.randint(len(taught), (batch,), generator=generator)
            finetuning.step(samples_of(finetuning.model, taught, chosen, generator))
        made = point
        yield made


def seek_embedding(
    model: LiveModel, taught: Lessons, steps: int, batch: int, rate: float, seed: int, chunk: int
) -> Conditioning:
    """A short embedding attack on one picture, from its own caption, on the model as it stands.

    Args:
        taught: one lesson.

    Returns:
        The embedding that was found, in the model's number type.

    Raises:
        SurgeryError: the gradient is not finite.
    """
    embeddings = taught.conditioning.embeddings.detach().float().clone().requires_grad_(True)
    moving = replace(taught, conditioning=Conditioning(embeddings, taught.conditioning.added))
    optimizer = torch.optim.Adam([embeddings], lr=rate)
    generator = torch.Generator("cpu").manual_seed(seed)
    own = torch.zeros(batch, dtype=torch.long)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with frozen(model.denoiser):
            accumulate(model, samples_of(model, moving, own, generator), chunk)
        finish_gradients(model, [embeddings])
        optimizer.step()
    return Conditioning(embeddings.detach().to(model.dtype), taught.conditioning.added)
