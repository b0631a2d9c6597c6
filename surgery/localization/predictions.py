"""What the denoiser predicts for prompts with nothing off, and what can be read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from surgery.localization.ms_ssim import Window, pairwise_scores_of_many, window_of
from surgery.model.denoising import noise_differences


@dataclass(frozen=True)
class Predictions:
    """What the denoiser predicts for n prompts on one set of latents, nothing off.

    Attributes:
        noise: float32 [prompts, seeds, channels, height, width].
        latents: float32 [seeds, channels, height, width].
        empty: gives the prediction for the empty prompt on the latents; costs the denoiser S sample-forwards
            when it is first called.
        noise_rate: sqrt(1 - alphas_cumprod) at the timestep predicted at.
        draw: sketches the first prompt's picture from the first latent in a few steps: [channels, height,
            width]; costs the denoiser as many sample-forwards.
    """

    noise: torch.Tensor
    latents: torch.Tensor
    empty: Callable[[], torch.Tensor]
    noise_rate: float = 1.0
    draw: Callable[[], torch.Tensor] | None = None

    @cached_property
    def differences(self) -> torch.Tensor:
        """The noise differences, float32 [prompts, seeds, channels, height, width]."""
        return noise_differences(self.noise, self.latents)

    @cached_property
    def sketches(self) -> torch.Tensor:
        """The clean latents predicted in one step, up to a factor; the shape of `noise`."""
        return self.latents.to(self.noise.device) - self.noise_rate * self.noise

    @cached_property
    def pairwise(self) -> torch.Tensor:
        """MS-SSIM of every pair of seeds, float32 [prompts, seeds, seeds], on the CPU; 1 on the diagonal."""
        return pairwise_scores_of_many(self.differences, self.window)

    @property
    def window(self) -> Window:
        """The window that fits the latents."""
        return window_of(*self.latents.shape[-2:])
