"""Phase 1 of the testbed's training: the autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from surgery.testbed import models
from surgery.testbed.data import autoencoder_batch
from surgery.testbed.phase import train_phase
from surgery.testbed.schedule import Schedule


def gradient(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Horizontal and vertical differences: edges weigh more than flat color in the autoencoder's loss."""
    return pictures[..., 1:] - pictures[..., :-1], pictures[..., 1:, :] - pictures[..., :-1, :]


def train_autoencoder(
    folder: Path, schedule: Schedule, quiet: bool = False
) -> tuple[AutoencoderKL, list[float]]:
    """Phase 1: reconstruct from the posterior's mean.

    Edges are weighed in after a third of the steps: from the start they hold the network at flat gray.
    """
    torch.manual_seed(schedule.seed)
    autoencoder = models.build_autoencoder().to(memory_format=torch.channels_last)
    steps = schedule.autoencoder_steps

    def loss_at(step: int) -> torch.Tensor:
        pictures = autoencoder_batch(step, schedule.batch // 4, schedule.seed)
        posterior = autoencoder.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist
        rebuilt = autoencoder.decode(posterior.mode()).sample
        loss = (rebuilt - pictures).abs().mean() + 2 * (rebuilt - pictures).square().mean()
        if step > steps / 3:
            for made, wanted in zip(gradient(rebuilt), gradient(pictures), strict=True):
                loss = loss + 0.4 * (made - wanted).abs().mean()
        return loss + 1e-6 * posterior.kl().mean()

    trained: dict[str, nn.Module] = {"vae": autoencoder}
    losses = train_phase("autoencoder", trained, loss_at, steps, folder, 1.5e-3,
                         schedule.save_every, quiet)  # fmt: skip
    autoencoder = autoencoder.to(memory_format=torch.contiguous_format)
    if not (folder / "scale.pt").is_file():
        with torch.no_grad():
            pictures = torch.cat([autoencoder_batch(10**6 + k, 50, schedule.seed) for k in range(4)])
            spread = autoencoder.encode(pictures).latent_dist.mode().std()
        torch.save({"scaling_factor": 1 / spread.item()}, folder / "scale.pt")
    scaling_factor = torch.load(folder / "scale.pt", weights_only=True)["scaling_factor"]
    autoencoder.register_to_config(scaling_factor=round(scaling_factor, 4))
    return autoencoder, losses
