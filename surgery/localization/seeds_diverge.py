"""The criterion seeds-diverge: do different seeds still agree, with the neurons off?

Four numbers say how much they do, all from the MS-SSIM between noise differences of different seeds:

- `prompts`, the mean over all pairs: the prompt as a whole;
- `upper_seeds`, an upper quantile over seeds of each seed's best match among the others (the third highest of
  ten): a memory that only some of the seeds draw;
- `agreeing_seeds`, how many seeds have a best match beyond what ordinary seeds have;
- `best_tile`, the mean over all pairs in that tile (four quarters, one in the middle) where it is highest:
  a template, fixed in one part and free in another.

Each is calibrated on ordinary prompts. Brought to the scale of the first (so that the threshold of each falls
on the threshold of the mean), the highest of the four is the score: a memory is broken when all four say so.
Without a calibration only the mean counts.

All four only grow as more seeds are looked at, so the first seeds bound the score from below.

Blind spots: an image whose noise at the second timestep agrees no more than an ordinary prompt's does, but
which guidance and later steps draw all the same; and a memory that gives way to another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from surgery.localization.criteria import Criterion, of_all_pairs
from surgery.localization.distribution import Distribution
from surgery.localization.ms_ssim import SMALLEST_SIDE, Window, pairwise_scores
from surgery.localization.predictions import Predictions

UPPER_SHARE = 0.3  # of the seeds: what the upper quantile lets lie above it, at most, itself included
STRICTER = 1.5  # the other parts' cutoff over the mean's: four chances of a false alarm in place of one
AGREES = 2.0  # deviations above ordinary seeds' best matches, from which on a seed counts as agreeing
# Of each part, where ordinary prompts differ by less: two seeds that agree by chance must not be an alarm.
LEAST_DEVIATION = {"upper_seeds": 1e-3, "agreeing_seeds": 0.75, "best_tile": 1e-3}
EXTRA_PARTS = ("upper_seeds", "agreeing_seeds", "best_tile")


@dataclass(frozen=True)
class SeedsDiverge(Criterion):
    """See the module's docstring.

    Attributes:
        ordinary: the calibrated distributions of the parts; without them only the mean counts.
        deviations: of the mean's threshold.
    """

    ordinary: Mapping[str, Distribution] = field(default_factory=dict)
    deviations: float = 2.0

    distribution = "prompts"
    cutoff = 2.0

    @property
    def distributions(self) -> tuple[str, ...]:
        return (self.distribution, "seed_matches", *EXTRA_PARTS)

    def calibrated(self, ordinary: Mapping[str, Distribution], cutoff: float | None = None) -> SeedsDiverge:
        known = {name: ordinary[name] for name in self.distributions if name in ordinary}
        return SeedsDiverge(known, self.cutoff if cutoff is None else cutoff)

    def pairwise(self, unablated: torch.Tensor, window: Window) -> torch.Tensor:
        return torch.stack([pairwise_scores(part) for part in looks(unablated)])

    def gate_score(self, pairwise: torch.Tensor) -> float:
        return self.score_of(self._parts(pairwise, pairwise.shape[-1]))

    def parts(
        self, ablated: torch.Tensor, unablated: Callable[[], torch.Tensor], seeds: int, window: Window
    ) -> dict[str, float]:
        return self._parts(self.pairwise(ablated, window), seeds)

    def score_of(self, parts: Mapping[str, float]) -> float:
        mean = self.ordinary.get(self.distribution)
        if mean is None:
            return parts[self.distribution]
        margin = self.deviations * mean.std
        found = [parts[self.distribution]]
        for name in EXTRA_PARTS:
            if name in self.ordinary and name in parts:
                own = self.ordinary[name]
                own_margin = STRICTER * self.deviations * max(own.std, LEAST_DEVIATION[name])
                found.append(mean.mean + (parts[name] - own.mean) / own_margin * margin)
        return max(found)

    def first_seeds(self, pairwise: torch.Tensor, threshold: float) -> int:
        seeds = pairwise.shape[-1]
        for some in range(2, seeds):
            # A failing test scores about as the unablated prompt does; 1.2 leaves room for a little less.
            if self.score_of(self._parts(pairwise[..., :some, :some], seeds)) > 1.2 * threshold:
                return some
        return seeds

    def calibration_values(self, one: Predictions, before: Predictions | None) -> dict[str, list[float]]:
        pairwise = self.pairwise(one.differences[0], one.window)
        parts = self._parts(pairwise, pairwise.shape[-1])
        values = {name: [parts[name]] for name in (self.distribution, "upper_seeds", "best_tile")}
        return {**values, "seed_matches": best_matches(pairwise).tolist()}

    def derived_values(self, found: Mapping[str, list[float]], seeds: int) -> dict[str, list[float]]:
        matches = found["seed_matches"]
        level = Distribution.of(matches).cutoff(AGREES)
        agreeing = (torch.tensor(matches).view(-1, seeds) > level).sum(1)
        return {"agreeing_seeds": agreeing.float().tolist()}

    def _parts(self, pairwise: torch.Tensor, seeds: int) -> dict[str, float]:
        """The parts over `seeds` seeds, from the pairs [looks, n, n] or [n, n] of the first n of them."""
        every = pairwise if pairwise.dim() == 3 else pairwise[None]
        matches = best_matches(every).sort(descending=True).values.tolist()
        place = math.ceil(UPPER_SHARE * seeds)
        parts = {
            "prompts": of_all_pairs(every[0], seeds),
            "upper_seeds": matches[place - 1] if place <= len(matches) else 0.0,
            "best_tile": max(of_all_pairs(one, seeds) for one in every),
        }
        if "seed_matches" in self.ordinary:
            level = self.ordinary["seed_matches"].cutoff(AGREES)
            parts["agreeing_seeds"] = float(sum(match > level for match in matches))
        return parts


def best_matches(pairwise: torch.Tensor) -> torch.Tensor:
    """Each seed's highest score with another: [seeds], of the whole picture; 0 for a seed alone."""
    whole = pairwise if pairwise.dim() == 2 else pairwise[0]
    return (whole - 2 * torch.eye(len(whole))).amax(dim=1).clamp_min(0.0)


def looks(differences: torch.Tensor) -> list[torch.Tensor]:
    """The whole of [seeds, channels, height, width], then its tiles where they are large enough to score.

    The tiles are half as high and wide: the four quarters and the middle.
    """
    height, width = (side // 2 for side in differences.shape[-2:])
    if min(height, width) < SMALLEST_SIDE:
        return [differences]
    places = [(0, 0), (0, width), (height, 0), (height, width), (height // 2, width // 2)]
    tiles = [differences[..., top : top + height, left : left + width].contiguous() for top, left in places]
    return [differences, *tiles]
