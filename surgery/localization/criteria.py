"""When is a prompt memorized, and when is its memory broken? Criteria and detectors.

A **detector** gives a prompt one number, high for a memorized one: the gate of `scan`. A **criterion** is a
detector that can also say, with neurons off, whether the memory is broken: what `localize` works with.

- **seeds-diverge** (ours, the default): a prompt's score is the mean MS-SSIM over all pairs of different
  seeds of its noise differences, ablated or not. The gate keeps all seeds of a prompt whose score exceeds the
  threshold.
- **noise-changed** (published: NeMo, arXiv 2406.02366): a seed's score is the MS-SSIM between its ablated and
  its own unablated noise difference; a prompt's score is the maximum over the seeds kept by the gate. The
  gate keeps the seeds whose best match among the OTHER seeds' unablated noise differences exceeds the
  threshold.
- **noise-magnitude**, a detector only (Wen et al., "Detecting, Explaining, and Mitigating Memorization in
  Diffusion Models", ICLR 2024): the norm of what the prompt adds to the noise prediction,
  ||eps(x_T, t, y) - eps(x_T, t, "")||, averaged over seeds. Taken at the same timestep as the other scores,
  and divided by the square root of the number of latent values, so that it does not grow with the picture.

Why two criteria: `noise-changed` compares at the SAME seed, and where the seed shows through the noise
difference (smooth pictures, small latents) even two unrelated prompts at one seed score high. That floor can
lie above every threshold made across seeds; then no ablation ever counts as enough. `seeds-diverge` asks
across seeds, before and after.

Both of their scores are sums or maxima of terms of at least 0, so the seeds seen so far give a lower bound of
the score over all seeds: a test that fails can stop early, with the same answer.

A new one is a class derived from `Criterion` or `Detector`, and a line in `surgery.localization.registry`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from surgery.localization.distribution import Distribution
from surgery.localization.ms_ssim import Window, ms_ssim, pairwise_scores
from surgery.localization.predictions import Predictions
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import NoisePredictor, noise_differences
from surgery.model.replay import BlockReplay
from surgery.neurons import NeuronSet


@dataclass(frozen=True)
class Gate:
    """The answer of the gate: the prompt's score, and the seeds (positions) that go on."""

    score: float
    kept: tuple[int, ...]


class Detector(Protocol):
    """Tells memorized prompts from ordinary ones by one number.

    Attributes:
        distribution: the calibrated distribution that its threshold comes from, a name of its own.
        cutoff: the threshold lies so many standard deviations above that distribution's mean.
    """

    distribution: str
    cutoff: float

    @property
    def distributions(self) -> tuple[str, ...]:
        """Every distribution that its decisions rest on, its own first."""
        return (self.distribution,)

    @abstractmethod
    def scores(self, seen: Predictions) -> list[float]:
        """One number a prompt."""

    def calibration_values(self, one: Predictions, before: Predictions | None) -> dict[str, list[float]]:
        """What one ordinary prompt adds to the distributions that this detector wants calibrated.

        Args:
            one: of the prompt.
            before: of the ordinary prompt before it, on the same latents; None for the first.

        Returns:
            Name of the distribution -> values; `distribution` is among them.
        """
        return {self.distribution: self.scores(one)}

    def derived_values(self, found: Mapping[str, list[float]], seeds: int) -> dict[str, list[float]]:
        """Further distributions, made of what all ordinary prompts added, in their order."""
        return {}


class Criterion(Detector, Protocol):
    """Says how much of a memory is left, with neurons off.

    Attributes:
        picks_seeds: whether the gate may keep only some of a memorized prompt's seeds. Then the confirmation
            passes its fresh seeds through the gate as well.
        replays: whether one denoiser pass a seed is all that is looked at, so that its first blocks can be
            replayed from earlier passes.
    """

    picks_seeds: bool = False
    replays: bool = True

    def calibrated(self, ordinary: Mapping[str, Distribution], cutoff: float | None = None) -> Criterion:
        """This criterion, told what ordinary prompts look like on the latents it will judge.

        Args:
            ordinary: name -> distribution, without the prefix that fresh latents' distributions have.
            cutoff: deviations for every threshold; None: the criterion's own.
        """
        return self

    def shown(self, targets: Mapping[str, torch.Tensor]) -> Criterion:
        """This criterion with the latents [channels, height, width] of prompts' training images."""
        return self

    @property
    def has_target(self) -> bool:
        """Whether it compares with a training image that was given."""
        return False

    def of_prompt(self, prompt: str) -> Criterion:
        """This criterion for one prompt: itself, unless prompts have something of their own."""
        return self

    def look(
        self,
        predictor: NoisePredictor,
        latents: torch.Tensor,
        conditioning: Conditioning,
        neurons: NeuronSet,
        replay: BlockReplay | None,
    ) -> torch.Tensor:
        """What is judged, with the neurons off: [seeds, channels, height, width]. The noise differences."""
        return noise_differences(predictor.predict(latents, conditioning, neurons, replay), latents)

    def pairwise(self, unablated: torch.Tensor, window: Window) -> torch.Tensor:
        """What the gate reads: how alike the seeds are, [seeds, seeds], or [looks, seeds, seeds]."""
        return pairwise_scores(unablated, window)

    @abstractmethod
    def gate_score(self, pairwise: torch.Tensor) -> float:
        """The score of a prompt by `pairwise` of what is seen with nothing off."""

    def gate(self, pairwise: torch.Tensor, threshold: float) -> Gate:
        """Whether a prompt with that `pairwise` goes on, and with which seeds: all, unless overridden."""
        score = self.gate_score(pairwise)
        return Gate(score, tuple(range(pairwise.shape[-1])) if score > threshold else ())

    @abstractmethod
    def parts(
        self, ablated: torch.Tensor, unablated: Callable[[], torch.Tensor], seeds: int, window: Window
    ) -> dict[str, float]:
        """The numbers that the score is made of, by name; from the first n of `seeds` seeds, lower bounds.

        Args:
            ablated: what `look` saw of n seeds with neurons off, [n, channels, height, width].
            unablated: gives what it sees of all `seeds` seeds with nothing off, in the same order.
            seeds: how many seeds there are.
            window: for MS-SSIM.
        """

    def score_of(self, parts: Mapping[str, float]) -> float:
        """The score that `parts` make up; a lower bound of it where they are."""
        return parts[self.distribution]

    def first_seeds(self, pairwise: torch.Tensor, threshold: float) -> int:
        """How many seeds to look at first in a test that is likely to fail: all, where bounds tell little."""
        return len(pairwise)

    def looked_at(self, seen: Predictions) -> torch.Tensor:
        """What `look` would have seen of prompts, nothing off: [prompts, seeds, channels, height, width]."""
        return seen.differences

    def scores(self, seen: Predictions) -> list[float]:
        """The gate's scores."""
        return [self.gate_score(self.pairwise(one, seen.window)) for one in self.looked_at(seen)]

    def doubt(self, ordinary: Mapping[str, float], threshold: float) -> str:
        """Why the criterion tells little in this model, if it does.

        Args:
            ordinary: name -> mean of the calibrated distributions.
            threshold: of the selection.
        """
        return ""


class NoiseChanged(Criterion):
    """See the module's docstring. Calibrates "pairs", every pair of seeds of an ordinary prompt, and
    "same_seed": two different prompts at one seed, the floor that this criterion cannot get under.
    """

    distribution = "pairs"
    cutoff = 1.0
    picks_seeds = True

    def gate_score(self, pairwise: torch.Tensor) -> float:
        return float(_best_others(pairwise).max())

    def gate(self, pairwise: torch.Tensor, threshold: float) -> Gate:
        best = _best_others(pairwise).tolist()
        return Gate(max(best), tuple(index for index, score in enumerate(best) if score > threshold))

    def pairwise(self, unablated: torch.Tensor, window: Window) -> torch.Tensor:
        return pairwise_scores(unablated, window, one_range=True)

    def parts(
        self, ablated: torch.Tensor, unablated: Callable[[], torch.Tensor], seeds: int, window: Window
    ) -> dict[str, float]:
        scores = ms_ssim(ablated, unablated()[: len(ablated)], window, one_range=True)
        return {self.distribution: float(scores.max())}

    def first_seeds(self, pairwise: torch.Tensor, threshold: float) -> int:
        return math.ceil(len(pairwise) / 4)

    def calibration_values(self, one: Predictions, before: Predictions | None) -> dict[str, list[float]]:
        rows, columns = torch.triu_indices(len(one.latents), len(one.latents), offset=1)
        values = {"pairs": self.pairwise(one.differences[0], one.window)[rows, columns].tolist()}
        if before is not None:
            pictures = (before.differences[0], one.differences[0])
            values["same_seed"] = ms_ssim(*pictures, one.window, one_range=True).tolist()
        return values

    def doubt(self, ordinary: Mapping[str, float], threshold: float) -> str:
        floor = ordinary.get("same_seed", 0.0)
        if floor <= threshold:
            return ""
        return (
            f"two unrelated ordinary prompts at one seed score {floor:.3f} here, above the threshold "
            f"{threshold:.3f}: noise-changed cannot be reached; use seeds-diverge"
        )


class NoiseMagnitude(Detector):
    """See the module's docstring."""

    distribution = "noise_magnitude"
    cutoff = 2.0

    def scores(self, seen: Predictions) -> list[float]:
        return [self._magnitude(noise - seen.empty()) for noise in seen.noise]

    def _magnitude(self, added: torch.Tensor) -> float:
        added = added.flatten(1)
        return float(added.norm(dim=1).mean() / added.shape[1] ** 0.5)


def _best_others(pairwise: torch.Tensor) -> torch.Tensor:
    """Each seed's highest score with another."""
    return (pairwise - 2 * torch.eye(len(pairwise))).amax(dim=1)


def of_all_pairs(pairwise: torch.Tensor, seeds: int) -> float:
    """The part of the mean over all pairs of `seeds` seeds that the pairs of some of them make up."""
    return float((pairwise.sum() - pairwise.trace()) / (seeds * (seeds - 1)))
