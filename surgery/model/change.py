"""What a change of the denoiser does, in units of what another seed does; and the path it is measured along.

For one prompt and timestep t, with latents x of several seeds, a the scheduler's cumulative alpha at t, the
source's noise predictions e and the changed model's e':

    what the change does     P = root mean square over seeds of |e' - e|
    what another seed does   S = root mean square over pairs of seeds (s, r) of |u_s - u_r|,
                             where u = e - x / sqrt(1 - a)

u is -sqrt(a / (1 - a)) times the clean latent that is predicted, so that P and S are distances between
predicted pictures on one scale. `surgery.auditing.measures.utility` says why.
"""

from __future__ import annotations

import torch

from surgery.model.pipeline import LiveModel


def path_timesteps(model: LiveModel, count: int) -> list[int]:
    """`count` training timesteps, evenly spaced, from the noisiest down."""
    total = int(model.pipeline.scheduler.config.num_train_timesteps)
    return [round(total - 1 - position * total / count) for position in range(count)]


def seed_distance(noise: torch.Tensor, latents: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """S: what another seed does, a scalar; `noise` and `latents` are [at least 2 seeds, ...]."""
    first, second = torch.triu_indices(len(latents), len(latents), offset=1)
    added = noise - latents / (1 - alpha).sqrt()
    return (added[first] - added[second]).square().flatten(1).mean(1).mean().clamp_min(1e-24).sqrt()


def change_in_seeds(
    noise: torch.Tensor, changed: torch.Tensor, latents: torch.Tensor, alpha: torch.Tensor
) -> torch.Tensor:
    """P / S of one prompt at one timestep, a scalar; every array is [at least 2 seeds, ...]."""
    change = (changed - noise).square().flatten(1).mean(1).mean().sqrt()
    return change / seed_distance(noise, latents, alpha)


def clean_latents(noise: torch.Tensor, latents: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """The clean latents that a noise prediction implies."""
    return (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def next_latents(
    noise: torch.Tensor, latents: torch.Tensor, alpha: torch.Tensor, next_alpha: torch.Tensor
) -> torch.Tensor:
    """One deterministic DDIM step (Song et al., ICLR 2021, eq. 12 with sigma 0)."""
    return next_alpha.sqrt() * clean_latents(noise, latents, alpha) + (1 - next_alpha).sqrt() * noise
