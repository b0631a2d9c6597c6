"""How much of a score over all seeds a few of them tell: calibrated on ordinary prompts, for `scan`.

Two latents in ten may be alike by themselves, and then their pair says nothing of a prompt; another two may
say nearly all. So on the ordinary prompts' predictions, which the calibration has anyway:

1. **Order.** The pair of seeds whose MS-SSIM follows the mean over all pairs best (highest correlation over
   prompts) comes first; then, one by one, the seed with which the mean over the pairs so far follows it best.
2. **Lines.** For each detector and each number n of first seeds that `scan` stops at, the score y over the
   first n seeds in that order is regressed on the score x over all: y = intercept + slope x + e, e normal
   with a deviation of its own.
3. **Bound.** A prompt whose score over all seeds is x lies, over the first n, below
   intercept + slope x - t s sqrt(1 + 1 / m + (x - mean)^2 / squares) with chance `miss` at most: the textbook
   prediction bound of a regression on m prompts, t the quantile of Student's t with m - 2 degrees of freedom.

Assumed in 3: that prompts which score x keep as close to the line as ordinary ones do. The order is chosen on
the same prompts that the line is fitted on, which makes e look a little smaller than it is; figures on other
prompts are in `docs/benchmarks.md`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy
import torch

from surgery.localization import registry
from surgery.localization.predictions import Predictions

STOPS = (2, 3, 4, 5, 7)  # numbers of seeds after which `scan` may stop
FEWEST_PROMPTS, MOST_PROMPTS = 8, 128  # a line through fewer says too little; more only take memory


@dataclass(frozen=True)
class Line:
    """A regression of the score over a few seeds on the score over all.

    Attributes:
        intercept, slope: of the line.
        deviation: standard deviation of the residuals (m - 2).
        mean: of the scores over all seeds.
        squares: the sum of squares of these about their mean.
        prompts: how many, m.
    """

    intercept: float
    slope: float
    deviation: float
    mean: float
    squares: float
    prompts: int

    @classmethod
    def through(cls, whole: Sequence[float], part: Sequence[float]) -> Line:
        """The least-squares line of `part` on `whole`, one pair a prompt; flat where `whole` never varies."""
        x, y = numpy.asarray(whole, dtype=float), numpy.asarray(part, dtype=float)
        squares = float(((x - x.mean()) ** 2).sum())
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / squares) if squares > 0 else 0.0
        intercept = float(y.mean() - slope * x.mean())
        residuals = y - intercept - slope * x
        deviation = float(numpy.sqrt((residuals**2).sum() / (len(x) - 2)))
        return cls(intercept, slope, deviation, float(x.mean()), squares, len(x))

    def bound(self, score: float, miss: float) -> float:
        """What a prompt of that score over all seeds falls below with chance `miss`; -inf if nobody knows."""
        from scipy.special import stdtrit

        if self.slope <= 0 or self.squares <= 0:
            return -math.inf
        spread = (1 + 1 / self.prompts + (score - self.mean) ** 2 / self.squares) ** 0.5
        quantile = -float(stdtrit(self.prompts - 2, miss))
        return self.intercept + self.slope * score - quantile * self.deviation * spread


@dataclass(frozen=True)
class Looks:
    """What a calibration knows about looking at a few seeds.

    Attributes:
        order: positions of the seeds, the most telling first.
        lines: detector -> number of first seeds -> the line.
    """

    order: tuple[int, ...]
    lines: Mapping[str, Mapping[int, Line]]

    def as_json(self) -> dict[str, Any]:
        """The `looks` of a calibration file."""
        lines = {
            name: {str(seeds): asdict(line) for seeds, line in of_one.items()}
            for name, of_one in self.lines.items()
        }
        return {"order": list(self.order), "lines": lines}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Looks:
        """What `as_json` wrote."""
        lines = {
            name: {int(seeds): Line(**line) for seeds, line in of_one.items()}
            for name, of_one in document["lines"].items()
        }
        return cls(tuple(document["order"]), lines)


@dataclass
class LooksCalibration:
    """Gathers the predictions of ordinary prompts, then says how telling their first seeds are.

    Attributes:
        expected: how many prompts will come; of more than `MOST_PROMPTS` some are left out, evenly.
    """

    expected: int
    _seen: list[Predictions] = field(default_factory=list)
    _shown: int = 0

    def see(self, one: Predictions) -> None:
        """Keep the predictions of one prompt: in all, at most `MOST_PROMPTS` x seeds latents in memory."""
        if self._shown % math.ceil(self.expected / MOST_PROMPTS) == 0:
            self._seen.append(one)
        self._shown += 1

    def result(self) -> Looks | None:
        """Order and lines; None where there are too few prompts, or too few seeds to stop early."""
        stops = [seeds for seeds in STOPS if self._seen and seeds < len(self._seen[0].latents)]
        if len(self._seen) < FEWEST_PROMPTS or not stops:
            return None
        order = telling_order(torch.cat([one.pairwise for one in self._seen]).double().numpy())
        lines: dict[str, dict[int, Line]] = {}
        for name in registry.detector_places():
            scorer = registry.detector(name)
            whole = [scorer.scores(one)[0] for one in self._seen]
            lines[name] = {}
            for seeds in stops:
                part = [scorer.scores(of_seeds(one, order[:seeds]))[0] for one in self._seen]
                lines[name][seeds] = Line.through(whole, part)
        return Looks(order, lines)


def of_seeds(seen: Predictions, seeds: Sequence[int]) -> Predictions:
    """The same predictions on some of the latents only, by position."""
    chosen = list(seeds)
    return replace(
        seen, noise=seen.noise[:, chosen], latents=seen.latents[chosen], empty=lambda: seen.empty()[chosen]
    )


def telling_order(pairwise: numpy.ndarray) -> tuple[int, ...]:
    """Step 1, from the scores between the seeds of every prompt, [prompts, seeds, seeds]."""
    seeds = pairwise.shape[1]
    whole = mean_pairs(pairwise, range(seeds))
    order = list(
        max(itertools.combinations(range(seeds), 2), key=lambda pair: _follows(pairwise, pair, whole))
    )
    while len(order) < seeds:
        left = [seed for seed in range(seeds) if seed not in order]
        order.append(max(left, key=lambda seed: _follows(pairwise, [*order, seed], whole)))
    return tuple(order)


def mean_pairs(pairwise: numpy.ndarray, seeds: Iterable[int]) -> numpy.ndarray:
    """The mean over all pairs of some of the seeds of every prompt: [prompts, seeds, seeds] -> [prompts]."""
    places = list(seeds)
    chosen, count = pairwise[:, places][:, :, places], len(places)
    return (chosen.sum((1, 2)) - numpy.trace(chosen, axis1=1, axis2=2)) / (count * (count - 1))


def _follows(pairwise: numpy.ndarray, seeds: Iterable[int], whole: numpy.ndarray) -> float:
    """Correlation over prompts; -1 where one of the two never varies."""
    part = mean_pairs(pairwise, seeds)
    if part.std() == 0 or whole.std() == 0:
        return -1.0
    return float(numpy.corrcoef(part, whole)[0, 1])
