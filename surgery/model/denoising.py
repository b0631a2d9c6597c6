"""Seeded latents, noise predictions and noise differences, sampling.

A noise difference (NeMo, arXiv 2406.02366, section 3) is `eps(x_T, t, y) - x_T`, scaled to [0, 1] per sample
and channel: what the denoiser adds to its own input at the noisy end. For a memorized prompt it looks alike
for every seed. The latents x_T have unit variance and are never denoised; t is taken from the pipeline's own
scheduler. Latents are drawn on the CPU in float32, so that every device and number type starts from the same
noise.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from surgery.errors import SurgeryError, UsageError
from surgery.model.ablation import ablate
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.pipeline import LiveModel
from surgery.model.replay import BlockReplay
from surgery.model.work import Work
from surgery.neurons import NeuronSet

MINIMUM_RANGE = 1e-12  # a channel that is constant scales to zeros instead of dividing by zero


def seeded_latents(model: LiveModel, seed: int, count: int) -> torch.Tensor:
    """Latents drawn in one call from one generator: float32 [count, channels, height, width], on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((count, *model.latent_shape), generator=generator, dtype=torch.float32)


def latents_of_seeds(model: LiveModel, seeds: Sequence[int]) -> torch.Tensor:
    """One latent per seed, each from its own generator: float32 [len(seeds), channels, height, width]."""
    return torch.cat([seeded_latents(model, seed, 1) for seed in seeds])


def noise_differences(prediction: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """`prediction - latents`, min-max scaled to [0, 1] per sample and channel.

    Args:
        prediction: predicted noise [..., channels, height, width].
        latents: the latents it was predicted for, same shape (or one that broadcasts to it).

    Returns:
        float32, the prediction's shape, on its device. A constant channel becomes zeros.
    """
    difference = prediction.float() - latents.to(prediction.device, torch.float32)
    low = difference.amin(dim=(-2, -1), keepdim=True)
    span = difference.amax(dim=(-2, -1), keepdim=True) - low
    return (difference - low) / span.clamp_min(MINIMUM_RANGE)


@dataclass
class NoisePredictor:
    """Runs the denoiser on undenoised latents and counts every run.

    Attributes:
        model: the live model.
        inference_steps: the scheduler's number of steps, which fixes its timesteps.
        step_index: which of these timesteps to predict at; 1, the second, is what the published code uses.
        guidance: classifier-free guidance scale, or None for the conditional prediction alone (the default).
        factor: what ablated outputs are multiplied with (0: exact zeros).
        batch_size: the most samples in one UNet call; halved for good whenever memory runs out.
        swap_guidance: exchange the conditional and unconditional halves, as the published code does.
        wasted_passes: run every prediction twice and throw the first away, as the published code does.
        work: where the runs are counted.
    """

    model: LiveModel
    inference_steps: int = 50
    step_index: int = 1
    guidance: float | None = None
    factor: float = 0.0
    batch_size: int = 32
    swap_guidance: bool = False
    wasted_passes: bool = False
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        # Asked once: with offloading in mind, diffusers looks at every module for the answer.
        self._device = self.model.device
        scheduler = copy.deepcopy(self.model.pipeline.scheduler)
        scheduler.set_timesteps(self.inference_steps)
        timesteps = scheduler.timesteps
        self.timestep = timesteps[min(self.step_index, len(timesteps) - 1)].to("cpu")
        self.first_timestep = timesteps[0].to("cpu")
        self._unconditional = encode_prompts(self.model, [""]) if self.guidance is not None else None

    @property
    def noise_rate(self) -> float:
        """The share of noise in latents of its timestep: sqrt(1 - alphas_cumprod)."""
        signal = float(self.model.pipeline.scheduler.alphas_cumprod[int(self.timestep)])
        return float((1 - signal) ** 0.5)

    @torch.no_grad()
    def predict(
        self,
        latents: torch.Tensor,
        conditioning: Conditioning,
        neurons: NeuronSet | None = None,
        replay: BlockReplay | None = None,
    ) -> torch.Tensor:
        """Predict the noise in latents that are pure noise.

        Args:
            latents: [n, channels, height, width], unit variance.
            conditioning: of n prompts, or of one prompt for all samples.
            neurons: what is switched off, in every sample.
            replay: stored outputs of the first blocks for these n samples (see `surgery.model.replay`), if
                any.

        Returns:
            The predicted noise, float32 [n, channels, height, width], on the model's device. Predictions of
            v or of the clean sample are converted to noise.

        Raises:
            SurgeryError: memory runs out even for a single sample, or the model predicts no finite numbers.
        """
        off = neurons or NeuronSet()
        if self.wasted_passes:
            self.predict_at(self.first_timestep, latents, conditioning, off)
        return self.predict_at(self.timestep, latents, conditioning, off, replay)

    @torch.no_grad()
    def predict_at(
        self,
        timestep: torch.Tensor,
        latents: torch.Tensor,
        conditioning: Conditioning,
        neurons: NeuronSet,
        replay: BlockReplay | None = None,
    ) -> torch.Tensor:
        """`predict` at a timestep of one's own (an integer tensor), for latents noised to it."""
        if len(conditioning) == 1:
            conditioning = conditioning.select(torch.zeros(len(latents), dtype=torch.long))
        return self._in_batches(latents, conditioning, neurons, timestep, replay)

    def predict_with_gradients(
        self, latents: torch.Tensor, conditioning: Conditioning, timestep: int
    ) -> torch.Tensor:
        """As `predict`, nothing off, at any timestep, in one call, with gradients (`surgery.model.gates`).

        The backward pass is counted beforehand: it costs about what two more forward passes would.
        """
        inputs = latents.to(self._device, self.model.dtype)
        prediction = self._one_batch(inputs, conditioning, NeuronSet(), torch.tensor(timestep), None)
        self.work.count(2 * len(inputs) * (1 if self.guidance is None else 2))
        return prediction

    def _in_batches(
        self,
        latents: torch.Tensor,
        conditioning: Conditioning,
        neurons: NeuronSet,
        timestep: torch.Tensor,
        replay: BlockReplay | None,
    ) -> torch.Tensor:
        parts, start = [], 0
        while start < latents.shape[0]:
            chosen = slice(start, start + self.batch_size)
            try:
                inputs = latents[chosen].to(self._device, self.model.dtype)
                stored = replay.select(chosen) if replay is not None else None
                part = self._one_batch(inputs, conditioning.select(chosen), neurons, timestep, stored)
            except torch.OutOfMemoryError:
                self._halve_batch()
            else:
                parts.append(part)
                start += len(part)
        prediction = torch.cat(parts)
        if not bool(torch.isfinite(prediction).all()):
            raise SurgeryError(
                self.model.source, "its denoiser predicts numbers that are not finite", "try --dtype float32"
            )
        return prediction

    def _halve_batch(self) -> None:
        if self.batch_size == 1:
            raise SurgeryError(
                "memory", "runs out for a single sample", "use a smaller --dtype or another device"
            )
        self.batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _one_batch(
        self,
        latents: torch.Tensor,
        conditioning: Conditioning,
        neurons: NeuronSet,
        timestep: torch.Tensor,
        replay: BlockReplay | None,
    ) -> torch.Tensor:
        inputs = latents
        if self._unconditional is not None:
            unconditional = self._unconditional.select(torch.zeros(len(latents), dtype=torch.long))
            conditioning = conditioning.join(unconditional)
            inputs = torch.cat([latents, latents])
        if replay is not None:  # what it covers never runs: its outputs were stored with these neurons off
            neurons = NeuronSet({layer: neurons[layer] for layer in neurons if not replay.covers(layer)})
        served = replay.applied(self.model.denoiser) if replay is not None else nullcontext()
        with ablate(self.model.denoiser, neurons, self.factor), served:
            predicted = self.model.denoiser(
                inputs,
                timestep.to(inputs.device),
                encoder_hidden_states=conditioning.embeddings,
                added_cond_kwargs=conditioning.added or None,
                return_dict=False,
            )[0].float()
        self.work.count(inputs.shape[0])
        noise = self._as_noise(predicted, inputs.float(), timestep)
        if self.guidance is None:
            return noise
        conditional, plain = noise.chunk(2)
        if self.swap_guidance:
            conditional, plain = plain, conditional
        return plain + self.guidance * (conditional - plain)

    def _as_noise(
        self, predicted: torch.Tensor, latents: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        scheduler = self.model.pipeline.scheduler
        kind = getattr(scheduler.config, "prediction_type", "epsilon")
        if kind == "epsilon":
            return predicted
        signal = scheduler.alphas_cumprod[int(timestep)].to(predicted.device, torch.float32)
        if kind == "v_prediction":
            return signal.sqrt() * predicted + (1 - signal).sqrt() * latents
        if kind == "sample":
            return (latents - signal.sqrt() * predicted) / (1 - signal).sqrt()
        raise UsageError(
            self.model.source, f"predicts {kind!r}", "only epsilon, v_prediction and sample are understood"
        )


@torch.no_grad()
def generate_images(
    model: LiveModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    inference_steps: int = 50,
    guidance: float = 7.5,
    batch_size: int = 16,
) -> list[Any]:
    """Draw one picture per (prompt, seed) pair; wrap the call in `ablate(...)` to draw with neurons off.

    Args:
        model: the live model.
        prompts: one prompt per picture.
        seeds: one seed per picture; the same seed starts from the same latent whatever the batch.
        inference_steps: denoising steps.
        guidance: classifier-free guidance scale; 1 switches it off.
        batch_size: pictures drawn at once.

    Returns:
        PIL images, in the order of the prompts.

    Raises:
        UsageError: prompts and seeds differ in number.
    """
    if len(prompts) != len(seeds):
        raise UsageError("seeds", f"{len(seeds)} for {len(prompts)} prompts", "give one seed per prompt")
    images: list[Any] = []
    for start in range(0, len(prompts), batch_size):
        chosen = slice(start, start + batch_size)
        latents = latents_of_seeds(model, seeds[chosen]).to(model.device, model.dtype)
        drawn = model.pipeline(
            prompt=list(prompts[chosen]),
            latents=latents,
            num_inference_steps=inference_steps,
            guidance_scale=guidance,
        )
        images.extend(drawn.images)
    return images
