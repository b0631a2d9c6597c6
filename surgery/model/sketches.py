"""Sketches: what a prompt's picture will roughly be, from a few sampler steps in latent space.

From pure noise x at timesteps t_1 > ... > t_K (evenly spaced, the first at 0.98 of the schedule), with signal
and noise rates a(t) = sqrt(alphas_cumprod(t)) and s(t) = sqrt(1 - a(t)^2):

1. clean = (x - s(t_i) eps(x, t_i)) / a(t_i), the clean latent that the denoiser predicts;
2. x = a(t_(i+1)) clean + s(t_(i+1)) eps: the deterministic step of Song et al., "Denoising Diffusion Implicit
   Models" (arXiv 2010.02502), equation 12 with sigma 0;
3. the clean latent of the last step is the sketch.

One step needs no more than the noise difference does, and tells the same. The pipeline's own scheduler is not
asked: its spacing is made for many steps (a "leading" one would begin four steps at timestep 751, with noise
that belongs to 999).
"""

from __future__ import annotations

import inspect

import torch

from surgery.model.conditioning import Conditioning
from surgery.model.denoising import NoisePredictor
from surgery.model.pipeline import LiveModel
from surgery.model.replay import BlockReplay
from surgery.neurons import NeuronSet

FIRST_TIMESTEP = 0.98  # of the schedule; at its very end some models keep no signal at all


def sketch_timesteps(trained_on: int, steps: int) -> list[int]:
    """The timesteps of a sketch of `steps` steps, for a schedule of `trained_on` timesteps, falling."""
    first = FIRST_TIMESTEP * trained_on
    return [round(first * (steps - step) / steps) for step in range(steps)]


@torch.no_grad()
def sketches(
    predictor: NoisePredictor,
    latents: torch.Tensor,
    conditioning: Conditioning,
    neurons: NeuronSet | None = None,
    steps: int = 4,
) -> torch.Tensor:
    """Sketch one picture for each latent.

    Args:
        predictor: runs and counts the denoiser; its guidance is used.
        latents: pure noise [n, channels, height, width], unit variance.
        conditioning: of n prompts, or of one for all samples.
        neurons: what is switched off, in every sample and step.
        steps: sampler steps.

    Returns:
        Clean latents as the denoiser reads them, float32 [n, channels, height, width], on the CPU.

    Raises:
        SurgeryError: as `NoisePredictor.predict`.
    """
    scheduler = predictor.model.pipeline.scheduler
    signal = scheduler.alphas_cumprod.to(torch.float32).cpu()
    timesteps = sketch_timesteps(len(signal), steps)
    state = latents.float().cpu()
    for timestep, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        noise = predictor.predict_at(
            torch.tensor(timestep), state, conditioning, neurons or NeuronSet()
        ).cpu()
        keeps, adds = signal[timestep].sqrt(), (1 - signal[timestep]).sqrt()
        clean = (state - adds * noise) / keeps
        if following is not None:
            state = signal[following].sqrt() * clean + (1 - signal[following]).sqrt() * noise
    return clean


@torch.no_grad()
def first_sketches(
    predictor: NoisePredictor,
    latents: torch.Tensor,
    conditioning: Conditioning,
    neurons: NeuronSet | None = None,
    replay: BlockReplay | None = None,
) -> torch.Tensor:
    """Sketches of one step, at the predictor's own timestep: one denoiser pass a latent, and replayable.

    Arguments and result as in `sketches` and `NoisePredictor.predict`; in float32 on the model's device, and
    scaled by the signal rate (nearly none is left at the noisy end), so that numbers stay of order 1.
    """
    noise = predictor.predict(latents, conditioning, neurons, replay)
    return as_sketches(predictor, noise, latents)


def as_sketches(predictor: NoisePredictor, noise: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The sketches of one step that noise predictions at the predictor's timestep stand for, same shape."""
    return latents.to(noise.device, torch.float32) - predictor.noise_rate * noise


def own_guidance(model: LiveModel) -> float:
    """The guidance scale that the pipeline draws with when nobody names one: 7.5 for SD, 5 for SDXL."""
    parameter = inspect.signature(type(model.pipeline).__call__).parameters.get("guidance_scale")
    default = parameter.default if parameter is not None else 1.0
    return float(default) if isinstance(default, int | float) else 1.0
