"""Activations of value layers, their statistics over ordinary prompts, and z-scores.

The activation a(l, j) of neuron j of layer l for one prompt is the mean over ALL token positions, padding
included, of |value output|. A value layer reads nothing but the text embedding, so an activation is a matrix
product: no denoiser pass. The statistics (mean, and standard deviation with n - 1) are merged batch by batch
in float64 after Chan, Golub and LeVeque (1979), so that any number of prompts can stream through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from surgery.model.conditioning import Conditioning

SMALLEST_STD = 1e-12  # a neuron that never varied: any deviation from its mean counts as enormous


@torch.no_grad()
def activations(layers: Mapping[str, torch.nn.Linear], conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """a(l, j) of n prompts.

    Args:
        layers: layer name -> value (or key) layer, [rows, width].
        conditioning: embeddings [n, tokens, width].

    Returns:
        Layer name -> float32 [n, rows], on the CPU.
    """
    embeddings = conditioning.embeddings
    return {
        name: layer(embeddings.to(layer.weight.device)).float().abs().mean(dim=1).cpu()
        for name, layer in layers.items()
    }


@dataclass
class Moments:
    """Running mean and standard deviation of activations, layer by layer."""

    count: int = 0
    mean: dict[str, torch.Tensor] = field(default_factory=dict)
    squares: dict[str, torch.Tensor] = field(default_factory=dict)

    def update(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Take in layer name -> [n, rows]."""
        added = next(iter(batch.values())).shape[0]
        total = self.count + added
        for name, values in batch.items():
            values = values.double()
            mean = values.mean(dim=0)
            squares = ((values - mean) ** 2).sum(dim=0)
            if self.count:
                shift = mean - self.mean[name]
                mean = self.mean[name] + shift * (added / total)
                squares = self.squares[name] + squares + shift**2 * (self.count * added / total)
            self.mean[name], self.squares[name] = mean, squares
        self.count = total

    def std(self) -> dict[str, torch.Tensor]:
        """Layer name -> standard deviation (n - 1), float64 [rows]; needs at least two prompts."""
        return {name: (squares / (self.count - 1)).sqrt() for name, squares in self.squares.items()}


def z_scores(activation: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """|a - mean| / std, float32 [rows]."""
    return (activation.double() - mean.double()).abs().div(std.double().clamp_min(SMALLEST_STD)).float()
