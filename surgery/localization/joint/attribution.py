"""Attribution: every neuron's first-order effect on a prompt's score, in all layers at once.

Each value layer's outputs are multiplied by gates: 1 where a neuron is on, 0 where it is off
(`surgery.model.gates`). At every step of the short sampler, from the states that it passes with the mask in
place, the clean latent is predicted and scored against the prompt's replica; the mean score over seeds and
steps is differentiated with respect to all gates: one backward pass a seed and step. For a neuron that is on

    effect = d score / d gate  =  what the score falls by when it is switched off, to first order,

and for one that is off the same number says what the score would rise by when it is switched on again. The
states themselves are held fixed, so that memory does not grow with the steps. Effects are claims: what is
switched off on their word is tested (`surgery.localization.joint.search`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from surgery.localization.joint.replicas import Replica
from surgery.model.conditioning import Conditioning
from surgery.model.gates import gated
from surgery.model.sketches import ShortSampler
from surgery.neurons import NeuronSet


def attribute(
    sampler: ShortSampler,
    layers: Mapping[str, torch.nn.Linear],
    latents: torch.Tensor,
    conditioning: Conditioning,
    replica: Replica,
    off: NeuronSet | None = None,
    together: int = 4,
) -> tuple[dict[str, torch.Tensor], float]:
    """The effects of all neurons on one prompt's score.

    Args:
        sampler: draws in a few steps; counts its forward and backward passes.
        layers: layer name -> value layer: whose neurons are asked about.
        latents: of the seeds, [seeds, channels, height, width].
        conditioning: of the one prompt.
        replica: what the score compares with.
        off: neurons that are off already.
        together: seeds in one backward pass.

    Returns:
        Layer name -> float32 [rows] effects, on the CPU; and the mean score over seeds and steps.
    """
    gates = open_gates(layers, off or NeuronSet())
    score = 0.0
    effects = {name: torch.zeros(len(gate)) for name, gate in gates.items()}
    count = len(latents) * len(sampler.timesteps)
    for states in latents.to(sampler.predictor.model.device).float().split(together):
        told = conditioning.select(torch.zeros(len(states), dtype=torch.long))
        for place in range(len(sampler.timesteps)):
            with torch.enable_grad(), gated(sampler.predictor.model.denoiser, gates):
                noise = sampler.noise_with_gradients(states, told, place)
                part = replica.scores(sampler.clean(noise, states, place)).sum() / count
                slopes = torch.autograd.grad(part, list(gates.values()))
            score += float(part.detach())
            for name, slope in zip(gates, slopes, strict=True):
                effects[name] += slope.float().cpu()
            states = sampler.following(noise.detach(), states, place)
    return effects, score


def open_gates(layers: Mapping[str, torch.nn.Linear], off: NeuronSet) -> dict[str, torch.Tensor]:
    """Layer name -> [rows] of ones, zeros where a neuron is off; they want gradients."""
    gates = {}
    for name, layer in layers.items():
        gate = torch.ones(layer.out_features, device=layer.weight.device)
        gate[list(off.get(name, ()))] = 0
        gates[name] = gate.requires_grad_(True)
    return gates
