"""What a mask costs ordinary prompts: an estimate for every mask from one look, and the measured change.

Some ordinary prompts are drawn in a few steps at two seeds each. At every state x on the way, with the noise
prediction e(gates), one random direction v (standard normal) is drawn and v . e / sqrt(size of e)
differentiated with respect to a state's own gates: one backward pass. Switching off a mask m changes the
prediction by -J m to first order, J the Jacobian with respect to the gates, and E (v . J m)^2 = |J m|^2
(Hutchinson 1989). So with a = J^T v / (sqrt(size) S), S what another seed does there,

    estimated change of a mask  =  sqrt(mean over states of (sum of a over the mask)^2),

for every mask, at no further pass, in the unit of the ordinary change: 1 is what another seed does.

The measured change of a mask is that of `surgery.model.change` over the same prompts, seeds and states: mean
over prompts of the mean over steps of P / S.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy
import torch

from surgery.localization.joint.attribution import open_gates
from surgery.model.change import change_in_seeds, seed_distance
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import seeded_latents
from surgery.model.gates import gated
from surgery.model.sketches import ShortSampler
from surgery.neurons import NeuronSet

SEEDS = 2
SEED = 2_000_003  # neither the search's nor the confirmation's
SMALLEST_COST = 1e-3  # of a neuron, in seeds: below, the estimate is all noise


class OrdinarySample:
    """Ordinary prompts, looked at once.

    Args:
        sampler: draws in a few steps, without guidance.
        layers: layer name -> value layer: whose neurons may be switched off.
        prompts: ordinary captions, at least one.
        together: samples in one backward pass.

    Attributes:
        pictures: what they draw, clean latents [prompts * seeds, ...].
        slopes: float64 [states, neurons], the a of the module's docstring; neurons as in `layers`.
    """

    def __init__(
        self,
        sampler: ShortSampler,
        layers: Mapping[str, torch.nn.Linear],
        prompts: Sequence[str],
        together: int = 4,
    ) -> None:
        self.sampler = sampler
        self.layers = layers
        self.prompts = len(prompts)
        model = sampler.predictor.model
        self.conditioning = encode_prompts(model, prompts).repeat(SEEDS)
        generator = torch.Generator("cpu").manual_seed(SEED)
        latents = seeded_latents(model, SEED, self.prompts * SEEDS).to(model.device)
        self.states: list[tuple[torch.Tensor, torch.Tensor]] = []  # latents, noise: [prompts * seeds, ...]
        slopes = []
        for place, alpha in enumerate(sampler.alphas):
            noise, slope = self._look(latents, place, generator, together)
            self.states.append((latents, noise))
            distance = [
                seed_distance(one, at, alpha)
                for one, at in zip(noise.split(SEEDS), latents.split(SEEDS), strict=True)
            ]
            slopes.append(slope / torch.stack(distance).cpu().double().repeat_interleave(SEEDS)[:, None])
            latents = sampler.following(noise, latents, place)
        self.pictures = latents
        self.slopes = torch.cat(slopes).numpy()

    def estimate(self, off: Sequence[int]) -> float:
        """The estimated change of a mask of neurons, in seeds."""
        return float(numpy.sqrt(numpy.square(self.slopes[:, list(off)].sum(1)).mean()))

    def costs(self, off: Sequence[int]) -> numpy.ndarray:
        """[neurons] the root of what each would add to the squared estimate, above 0.

        The root, since a neuron's benefit is first order too: twice the strength, twice both.
        """
        now = self.slopes[:, list(off)].sum(1)
        more = (2 * now[:, None] * self.slopes + numpy.square(self.slopes)).mean(0)
        return numpy.sqrt(more.clip(SMALLEST_COST**2))

    def measure(self, neurons: NeuronSet) -> float:
        """The measured change with these neurons off: prompts x seeds x steps sample-forwards."""
        if not neurons:
            return 0.0
        ratios = []
        for place, (latents, noise) in enumerate(self.states):
            changed = self.sampler.noise(latents, self.conditioning, place, neurons)
            ratios += [
                float(change_in_seeds(before, after, at, self.sampler.alphas[place]))
                for before, after, at in zip(
                    noise.split(SEEDS), changed.split(SEEDS), latents.split(SEEDS), strict=True
                )
            ]
        return sum(ratios) / len(ratios)

    def _look(
        self, latents: torch.Tensor, place: int, generator: torch.Generator, together: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise predictions [samples, ...] of one step, and the slopes, float64 [samples, neurons]."""
        noises, slopes = [], []
        denoiser = self.sampler.predictor.model.denoiser
        for start in range(0, len(latents), together):
            some = latents[start : start + together]
            told = self.conditioning.select(slice(start, start + together))
            gates = {
                name: gate.detach().repeat(len(some), 1).requires_grad_(True)
                for name, gate in open_gates(self.layers, NeuronSet()).items()
            }
            with torch.enable_grad(), gated(denoiser, gates):
                noise = self.sampler.noise_with_gradients(some, told, place)
                probe = torch.randn(noise.shape, generator=generator).to(noise.device)
                found = torch.autograd.grad(
                    (noise * probe).sum() / noise[0].numel() ** 0.5, [*gates.values()]
                )
            noises.append(noise.detach())
            slopes.append(torch.cat([one.double().cpu() for one in found], dim=1))
        return torch.cat(noises), torch.cat(slopes)
