"""How much of a prompt's own picture is left, with neurons off: the score of the joint search.

A few deterministic DDIM steps from pure noise already show what a prompt draws (testbed: 4 steps, the replica
is there at correlation .9 and more). So, in latents, without the autoencoder:

- **replica** of a prompt: the training image, where one is given, over the places in which what SOURCE draws
  agrees across seeds (`surgery.localization.fixed`). Otherwise the mean over seeds of what SOURCE draws: what
  stays the same at all seeds stays in the mean; the rest (the varying part of a template, too) averages out.
- **score** of a picture: its likeness to the replica (`surgery.localization.likeness`), 1 for the replica
  itself.
- **level**: the highest score that ordinary prompts' pictures reach against this replica.
- **own**: the median score of SOURCE's own pictures; without an image each against the mean of the OTHER
  seeds.
- A prompt is **broken** when no seed scores above the threshold level + 0.4 (own - level): most of what
  sets the replica apart from ordinary pictures is gone, at every seed. And no other picture may have taken
  its place: the seeds' agreement, each against the mean of the others, must be at most
  level + 0.5 (own - level), where level and own are those of the mean.

Where own does not exceed level, the seeds show no common picture, and this score can say nothing. An image
that SOURCE's pictures are not like (a wrong one, a crop) acquits nobody: the mean is taken then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from surgery.localization.fixed import fixed_mask
from surgery.localization.likeness import correlation, differences

LEFT = 0.4  # the share of own - level that may be left of the replica, at any seed
SHARED = 0.5  # and that the seeds may agree by on any picture


@dataclass(frozen=True)
class Replica:
    """What a prompt draws at every seed, and how alike is too alike.

    Attributes:
        picture: the replica's differences, float32 [2 * channels, height, width].
        level, own: see the module.
        shared: the seeds may agree by so much on any picture.
        mask: bool [height, width], where an image is compared; None: everywhere, and with no image.
    """

    picture: torch.Tensor
    level: float
    own: float
    shared: float
    mask: torch.Tensor | None = None

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
        return len(pictures) > 1 and agreement(pictures) > self.shared

    def scores(self, pictures: torch.Tensor) -> torch.Tensor:
        """One score for each clean latent [..., channels, height, width]; gradients flow."""
        return correlation(differences(pictures), self.picture, self.mask)


def replica_of(
    pictures: torch.Tensor, ordinary: torch.Tensor | None = None, image: torch.Tensor | None = None
) -> Replica:
    """The replica of a prompt.

    Args:
        pictures: what the source draws for it, [at least 2 seeds, channels, height, width].
        ordinary: what the source draws for ordinary prompts, [many, channels, height, width];
            without them the level is 0.
        image: the latent of its training image, [channels, height, width].
    """
    mean = differences(pictures.mean(0))
    level, own = _level(mean, ordinary), agreement(pictures)
    drawn = Replica(mean, level, own, shared=level + SHARED * (own - level))
    if image is None:
        return drawn
    mask = fixed_mask(pictures).to(pictures.device)
    changes = differences(image.to(pictures.device, torch.float32))
    own = float(correlation(differences(pictures), changes, mask).median())
    pictured = Replica(changes, _level(changes, ordinary, mask), own, drawn.shared, mask)
    return pictured if pictured.is_one else drawn


def _level(picture: torch.Tensor, ordinary: torch.Tensor | None, mask: torch.Tensor | None = None) -> float:
    if ordinary is None:
        return 0.0
    return float(correlation(differences(ordinary), picture, mask).max())


def agreement(pictures: torch.Tensor) -> float:
    """The median score of pictures [at least 2 seeds, ...], each against the mean of the other seeds'."""
    others = (pictures.sum(0) - pictures) / (len(pictures) - 1)
    return float(correlation(differences(pictures), differences(others)).median())
