"""How much of a prompt's own picture is left, with neurons off: the score of the joint search.

A few deterministic DDIM steps from pure noise already show what a prompt draws (testbed: 4 steps, the replica
is there at correlation .9 and more). So, in latents, without the autoencoder:

- **replica** of a prompt: the mean over seeds of what the source draws in these steps. What stays the same at
  all seeds stays in the mean; the rest (the varying part of a template, too) averages out.
- **score** of a picture: correlation of its horizontal and vertical differences with the replica's, 1 for the
  replica itself. Differences, since a memory's shapes survive where its brightness does not.
- **level**: the highest score that ordinary prompts' pictures reach against this replica.
- **own**: the median score of the source's own pictures, each against the mean of the OTHER seeds.
- A prompt is **broken** when no seed scores above the threshold level + 0.4 (own - level): most of what
  sets the replica apart from ordinary pictures is gone, at every seed. And no other picture may have taken
  its place: the seeds' agreement (computed as own is) must be at most level + 0.5 (own - level).

Where own does not exceed level, the seeds show no common picture, and this score can say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from surgery.model.change import clean_latents, next_latents, path_timesteps
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import NoisePredictor
from surgery.neurons import NeuronSet

LEFT = 0.4  # the share of own - level that may be left of the replica, at any seed
SHARED = 0.5  # and that the seeds may agree by on any picture


@dataclass(frozen=True)
class Replica:
    """What a prompt draws at every seed, and how alike is too alike.

    Attributes:
        picture: the replica's differences, float32 [2 * channels, height, width].
        level, own: see the module.
    """

    picture: torch.Tensor
    level: float
    own: float

    @property
    def is_one(self) -> bool:
        """Whether the seeds share a picture at all."""
        return self.own > self.level

    @property
    def threshold(self) -> float:
        """No seed of a broken prompt scores above it."""
        return self.level + LEFT * (self.own - self.level)

    def is_broken(self, pictures: torch.Tensor) -> bool:
        """Whether what was drawn, [seeds, channels, height, width], is this picture no more, nor any one."""
        return float(self.scores(pictures).max()) <= self.threshold and not self.is_replaced(pictures)

    def is_replaced(self, pictures: torch.Tensor) -> bool:
        """Whether the seeds agree on some picture, this one or another; a single seed never does."""
        return len(pictures) > 1 and agreement(pictures) > self.level + SHARED * (self.own - self.level)

    def scores(self, pictures: torch.Tensor) -> torch.Tensor:
        """One score for each clean latent [..., channels, height, width]; gradients flow."""
        return correlation(differences(pictures), self.picture)


def replica_of(pictures: torch.Tensor, ordinary: torch.Tensor | None = None) -> Replica:
    """The replica of a prompt.

    Args:
        pictures: what the source draws for it, [at least 2 seeds, channels, height, width].
        ordinary: what the source draws for ordinary prompts, [many, channels, height, width];
            without them the level is 0.
    """
    picture = differences(pictures.mean(0))
    level = 0.0 if ordinary is None else float(correlation(differences(ordinary), picture).max())
    return Replica(picture, level, agreement(pictures))


def agreement(pictures: torch.Tensor) -> float:
    """The median score of pictures [at least 2 seeds, ...], each against the mean of the other seeds'."""
    others = (pictures.sum(0) - pictures) / (len(pictures) - 1)
    return float(correlation(differences(pictures), differences(others)).median())


def differences(latents: torch.Tensor) -> torch.Tensor:
    """Differences to the right and lower neighbor, [..., 2 * channels, height, width]; 0 at the border."""
    pad = torch.nn.functional.pad
    across = pad(latents[..., :, 1:] - latents[..., :, :-1], (0, 1))
    down = pad(latents[..., 1:, :] - latents[..., :-1, :], (0, 0, 0, 1))
    return torch.cat([across, down], dim=-3)


def correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosine of arrays over their last three dimensions; 0 where one of them is constant."""
    axes = (-3, -2, -1)
    scale = first.square().sum(axes) * second.square().sum(axes)
    return (first * second).sum(axes) / scale.clamp_min(1e-24).sqrt()


class ShortSampler:
    """Draws clean latents in a few steps.

    Args:
        predictor: runs and counts the denoiser; with its guidance, if it has one.
        steps: how many.
    """

    def __init__(self, predictor: NoisePredictor, steps: int) -> None:
        self.predictor = predictor
        self.timesteps = path_timesteps(predictor.model, steps)
        alphas = predictor.model.pipeline.scheduler.alphas_cumprod.float()
        self.alphas = [alphas[timestep] for timestep in self.timesteps]

    def draw(self, latents: torch.Tensor, conditioning: Conditioning, neurons: NeuronSet) -> torch.Tensor:
        """The clean latents at the end, float32 [seeds, ...], for latents of unit variance, neurons off."""
        return self.states(latents, conditioning, neurons)[1]

    def states(
        self, latents: torch.Tensor, conditioning: Conditioning, neurons: NeuronSet
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The latents that each step begins with, and the clean latents at the end."""
        latents = latents.to(self.predictor.model.device).float()
        begun = []
        for place, timestep in enumerate(self.timesteps):
            begun.append(latents)
            self.predictor.timestep = torch.tensor(timestep)
            noise = self.predictor.predict(latents, conditioning, neurons)
            if place + 1 < len(self.timesteps):
                latents = next_latents(noise, latents, self.alphas[place], self.alphas[place + 1])
        return begun, clean_latents(noise, latents, self.alphas[-1])

    def clean_with_gradients(
        self, latents: torch.Tensor, conditioning: Conditioning, place: int
    ) -> torch.Tensor:
        """The clean latents that the prediction at step `place` implies."""
        noise = self.predictor.predict_with_gradients(latents, conditioning, self.timesteps[place])
        return clean_latents(noise, latents, self.alphas[place])
