"""A short deterministic sampler through which gradients flow.

Ours rather than the pipeline's: schedulers round timesteps, keep state and call `no_grad` each in their own
way. DDIM's update (arXiv 2010.02502, equation 12, without noise) needs nothing but the share of signal at two
timesteps, and holds for every model that was trained with such shares, whether it predicts noise, v or the
clean latent, and whatever its pipeline samples with. The steps are spread evenly and begin at the noisiest
timestep. Clipping and thresholding of pixel models are left out.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from surgery.auditing.attack.conditioned import predicted
from surgery.auditing.attack.noised_copies import prediction_type, signal_levels
from surgery.model.conditioning import Conditioning
from surgery.model.pipeline import LiveModel

LEAST_SIGNAL = 1e-6  # a schedule that ends in pure noise has none at its last timestep


def sample(
    model: LiveModel, noise: torch.Tensor, conditioning: Conditioning, steps: int, checkpointed: bool = True
) -> torch.Tensor:
    """From starting noise to clean latents, without guidance.

    Args:
        noise: float32 [n, channels, height, width], on the model's device.
        conditioning: of n samples.
        steps: of the sampler.
        checkpointed: where the noise wants a gradient, every step is run again on the way back instead of
            being kept: memory does not grow with the steps.

    Returns:
        Scaled clean latents, float32, the shape of the noise.

    Raises:
        SurgeryError: the model's scheduler has no noise schedule, or predicts something unknown.
    """
    levels, kind = signal_levels(model), prediction_type(model)
    places = torch.linspace(len(levels) - 1, 0, steps + 1)[:-1].round().long()
    shares = [*levels[places].clamp_min(LEAST_SIGNAL).tolist(), 1.0]
    latents = noise
    for place, share, following in zip(places, shares, shares[1:], strict=False):
        if noise.requires_grad and checkpointed:
            latents = checkpoint(
                _step,
                model,
                latents,
                place,
                share,
                following,
                kind,
                conditioning,
                use_reentrant=False,
                preserve_rng_state=False,  # no step draws a random number
            )
        else:
            latents = _step(model, latents, place, share, following, kind, conditioning)
    return latents


def _step(
    model: LiveModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    share: float,
    following: float,
    kind: str,
    conditioning: Conditioning,
) -> torch.Tensor:
    """One step, from a share of signal to the following one."""
    said = predicted(model, latents, timestep.expand(len(latents)), conditioning)
    signal, noisiness = share**0.5, (1 - share) ** 0.5
    if kind == "epsilon":
        noise, clean = said, (latents - noisiness * said) / signal
    elif kind == "v_prediction":
        noise, clean = signal * said + noisiness * latents, signal * latents - noisiness * said
    else:
        noise, clean = (latents - signal * said) / max(noisiness, LEAST_SIGNAL), said
    return following**0.5 * clean + (1 - following) ** 0.5 * noise
