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

from surgery.model.change import clean_latents, next_latents
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


class ShortSampler:
    """Draws sketches of a few steps.

    Args:
        predictor: runs and counts the denoiser; its guidance is used.
        steps: how many.

    Attributes:
        timesteps: falling.
        alphas: the cumulative alphas there, float32 scalars.
    """

    def __init__(self, predictor: NoisePredictor, steps: int = 4) -> None:
        self.predictor = predictor
        alphas = predictor.model.pipeline.scheduler.alphas_cumprod.to("cpu", torch.float32)
        self.timesteps = sketch_timesteps(len(alphas), steps)
        self.alphas = [alphas[timestep] for timestep in self.timesteps]

    def draw(
        self, latents: torch.Tensor, conditioning: Conditioning, neurons: NeuronSet | None = None
    ) -> torch.Tensor:
        """Sketch one picture for each latent: one denoiser pass a latent and step.

        Args:
            latents: pure noise [n, channels, height, width], unit variance.
            conditioning: of n prompts, or of one for all samples.
            neurons: what is switched off, in every sample and step.

        Returns:
            Clean latents, float32 on the model's device, the shape of `latents`.
        """
        latents = latents.to(self.predictor.model.device, torch.float32)
        for place in range(len(self.timesteps)):
            latents = self.following(self.noise(latents, conditioning, place, neurons), latents, place)
        return latents

    def noise(
        self, latents: torch.Tensor, conditioning: Conditioning, place: int, neurons: NeuronSet | None = None
    ) -> torch.Tensor:
        """The noise predictions of step `place`, from latents noised to it, the same shape."""
        timestep = torch.tensor(self.timesteps[place])
        return self.predictor.predict_at(timestep, latents, conditioning, neurons or NeuronSet())

    def noise_with_gradients(
        self, latents: torch.Tensor, conditioning: Conditioning, place: int
    ) -> torch.Tensor:
        """The same with gradients, nothing off; `conditioning` is of as many prompts as there are latents."""
        return self.predictor.predict_with_gradients(latents, conditioning, self.timesteps[place])

    def clean(self, noise: torch.Tensor, latents: torch.Tensor, place: int) -> torch.Tensor:
        """The clean latents that the predictions of step `place` imply."""
        return clean_latents(noise, latents, self.alphas[place])

    def following(self, noise: torch.Tensor, latents: torch.Tensor, place: int) -> torch.Tensor:
        """The latents that the step after `place` begins with; after the last one, clean ones."""
        if place + 1 == len(self.timesteps):
            return self.clean(noise, latents, place)
        return next_latents(noise, latents, self.alphas[place], self.alphas[place + 1])


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
