"""The two criteria for "this memory is broken", by name.

- **noise-changed** (published: NeMo, arXiv 2406.02366): a seed's score is the MS-SSIM between its ablated and
  its own unablated noise difference; a prompt's score is the maximum over the seeds kept by the gate. The
  gate keeps the seeds whose best match among the OTHER seeds' unablated noise differences exceeds the
  threshold.
- **seeds-diverge** (ours, the default): a prompt's score is the mean MS-SSIM over all pairs of different
  seeds of its noise differences, ablated or not. The gate keeps all seeds of a prompt whose score exceeds the
  threshold.

Why two: `noise-changed` compares at the SAME seed, and where the seed shows through the noise difference
(smooth pictures, small latents) even two unrelated prompts at one seed score high. That floor can lie above
every threshold made across seeds; then no ablation ever counts as enough. `seeds-diverge` asks across seeds,
before and after.

Both scores are sums or maxima of terms of at least 0, so the seeds seen so far give a lower bound of the
score over all seeds: a test that fails can stop early, with the same answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from surgery.localization.ms_ssim import Window, ms_ssim, pairwise_scores


@dataclass(frozen=True)
class Gate:
    """The answer of the gate: the prompt's score, and the seeds (positions) that go on."""

    score: float
    kept: tuple[int, ...]


class Criterion(Protocol):
    """How noise differences become a score, and which calibrated distribution its threshold comes from."""

    name: str
    distribution: str
    cutoff: float

    def gate(self, pairwise: torch.Tensor, threshold: float) -> Gate:
        """Judge a prompt by the scores [seeds, seeds] between its unablated noise differences."""

    def bound(self, ablated: torch.Tensor, unablated: torch.Tensor, seeds: int, window: Window) -> float:
        """A lower bound of the score over `seeds` seeds from the first of them [n, c, h, w]; exact at n =
        seeds.
        """

    def first_seeds(self, pairwise: torch.Tensor, threshold: float) -> int:
        """How many seeds to look at first in a test that is likely to fail."""


class SeedsDiverge:
    """See the module's docstring."""

    name = "seeds-diverge"
    distribution = "prompts"
    cutoff = 2.0

    def gate(self, pairwise: torch.Tensor, threshold: float) -> Gate:
        score = mean_pair(pairwise)
        return Gate(score, tuple(range(len(pairwise))) if score > threshold else ())

    def bound(self, ablated: torch.Tensor, unablated: torch.Tensor, seeds: int, window: Window) -> float:
        pairs = pairwise_scores(ablated, window)
        return float((pairs.sum() - pairs.trace()) / (seeds * (seeds - 1)))

    def first_seeds(self, pairwise: torch.Tensor, threshold: float) -> int:
        seeds = len(pairwise)
        for some in range(2, seeds):
            corner = pairwise[:some, :some]
            # A failing test scores about as the unablated prompt does; 1.2 leaves room for a little less.
            if float(corner.sum() - corner.trace()) / (seeds * (seeds - 1)) > 1.2 * threshold:
                return some
        return seeds


class NoiseChanged:
    """See the module's docstring."""

    name = "noise-changed"
    distribution = "pairs"
    cutoff = 1.0

    def gate(self, pairwise: torch.Tensor, threshold: float) -> Gate:
        best = (pairwise - 2 * torch.eye(len(pairwise))).amax(dim=1)
        return Gate(
            float(best.max()), tuple(index for index, score in enumerate(best.tolist()) if score > threshold)
        )

    def bound(self, ablated: torch.Tensor, unablated: torch.Tensor, seeds: int, window: Window) -> float:
        return float(ms_ssim(ablated, unablated, window).max())

    def first_seeds(self, pairwise: torch.Tensor, threshold: float) -> int:
        return math.ceil(len(pairwise) / 4)


CRITERIA_BY_NAME: dict[str, Criterion] = {
    SeedsDiverge.name: SeedsDiverge(),
    NoiseChanged.name: NoiseChanged(),
}


def mean_pair(pairwise: torch.Tensor) -> float:
    """The mean over all pairs of different seeds of a symmetric [seeds, seeds] matrix."""
    seeds = len(pairwise)
    return float((pairwise.sum() - pairwise.trace()) / (seeds * (seeds - 1)))
