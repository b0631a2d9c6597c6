"""Textbook statistics of the verdict: exact rank tests, corrections for many tests, intervals, power.

The null hypothesis for one attacked image is exchangeability: had the model never seen it, its score would be
one more draw from whatever the control scores are drawn from. Nothing else is assumed, no normality, no equal
variance. Then

1. one image against K controls: the rank p-value p = (1 + number of controls at or above it) / (K + 1) is
   exact (a permutation test over which of the K + 1 scores belongs to the image). Its smallest value is
   1 / (K + 1): with fewer than 19 controls no single image can be separated at level 0.05.
2. all images together: the exact Mann-Whitney test, with ties counted against us.
3. m images at once: Benjamini-Hochberg by default (valid for p-values that share their controls: Bates et
   al., "Testing for outliers with conformal p-values", Annals of Statistics 2023), or Holm. Holm errs in at
   most a share alpha of audits, but needs m / alpha - 1 controls before it can say anything.
4. a share of successes: the exact Clopper-Pearson interval.
5. removal, by non-inferiority: not "we saw no difference" but "we saw that at most half of the memory can be
   left". The null hypothesis is that the image still scores d more than a never-seen image does, with d half
   of what it scores more in SOURCE. Were that so, score - d would be one more draw from the controls, so
   p = (1 + number of controls at or below score - d) / (K + 1) is exact again, and rejecting it is the only
   way to `removed`. Over several attacks, all must reject (intersection-union: no correction is due).
6. power: by how much the score of a never-seen image must rise before the test of step 1 notices in 80 % of
   cases, read off the controls themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy
from scipy import stats

POWER = 0.8
EXACT_PAIRS = 5_000  # up to so many (image, control) pairs every permutation is counted
PERMUTATIONS = 20_000  # above, so many are drawn: still a valid test, p-values from 1 / 20,001 up


def rank_p_value(score: float, controls: Sequence[float]) -> float:
    """The exact one-sided p-value of one score against control scores; 1 where there are no controls."""
    return (1 + sum(control >= score for control in controls)) / (len(controls) + 1)


def pooled_p_value(scores: Sequence[float], controls: Sequence[float]) -> float:
    """The exact one-sided Mann-Whitney p-value: do `scores` lie above `controls`?

    Large sets are compared by random permutations (seeded) instead of all of them. Ties are ranked as if the
    control were the higher one, which can only raise the p-value. 1 where one side is empty.
    """
    if not scores or not controls:
        return 1.0
    values = numpy.concatenate([numpy.asarray(scores, float), numpy.asarray(controls, float)])
    is_control = numpy.arange(len(values)) >= len(scores)
    ranks = numpy.empty(len(values))
    ranks[numpy.lexsort((is_control, values))] = numpy.arange(len(values))
    total = int(ranks[: len(scores)].sum())
    if len(scores) * len(controls) <= EXACT_PAIRS:
        distribution = _rank_sums(len(scores), len(values))
        return float(distribution[total:].sum() / distribution.sum())
    random = numpy.random.default_rng(0)
    sums = [random.permutation(ranks)[: len(scores)].sum() for _ in range(PERMUTATIONS)]
    return float((1 + (numpy.asarray(sums) >= total).sum()) / (PERMUTATIONS + 1))


@lru_cache(maxsize=16)
def _rank_sums(chosen: int, among: int) -> numpy.ndarray:
    """How many of the subsets of `chosen` ranks from 0 .. among - 1 have each sum: index is the sum."""
    ways = numpy.zeros((chosen + 1, chosen * among + 1))
    ways[0, 0] = 1
    for rank in range(among):
        # rising, from the row above as it stood before this rank: each rank is taken at most once
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    return ways[chosen]


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided confidence interval of a share; (0, 1) where there were no trials."""
    if trials == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def critical_score(controls: Sequence[float], alpha: float = 0.05) -> float:
    """A score must exceed this for its rank p-value to be at most `alpha`; infinite with too few controls."""
    # p <= alpha allows so many controls at or above the score; rounding guards 0.05 * 20 = 1.0000000000000002
    allowed = math.floor(round(alpha * (len(controls) + 1), 9)) - 1
    return math.inf if allowed < 0 else sorted(controls, reverse=True)[allowed]


def detectable_effect(controls: Sequence[float], alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest rise in score over a never-seen image that the rank test finds with the given power.

    A score drawn as the controls are, plus the effect, must exceed `critical_score`; the effect at which a
    share `power` of the controls would do so. Infinite where there are too few controls for the level.
    """
    critical = critical_score(controls, alpha)
    if math.isinf(critical):
        return math.inf
    # so many of the lowest controls may stay below the critical score
    below = math.floor(round((1 - power) * len(controls), 9))
    return critical - sorted(controls)[min(below, len(controls) - 1)]


def removal_p_value(score: float, controls: Sequence[float], margin: float) -> float:
    """The exact p-value of "the image still scores `margin` more than a never-seen one"; 1 without controls.

    Args:
        score: of the image on PATCHED.
        controls: of never-seen images on PATCHED.
        margin: what counts as left: half of SOURCE's effect, as `memory_effect` measures it.
    """
    return (1 + sum(control <= score - margin for control in controls)) / (len(controls) + 1)


def memory_effect(source: float, controls: Sequence[float]) -> float:
    """What a memory is worth in SOURCE: how far its score lies above the median control's."""
    return source - float(numpy.median(numpy.asarray(controls, float)))


def controls_needed(alpha: float = 0.05) -> int:
    """The fewest controls with which one image alone can be separated, or removed, at level `alpha`."""
    return math.ceil(round(1 / alpha, 9)) - 1


def controls_wanted(prompts: int, alpha: float = 0.05) -> int:
    """The controls with which one hidden image among so many prompts can be singled out by rank alone.

    Its smallest p-value, 1 / (K + 1), must survive the correction for all prompts. With fewer controls such
    an image is `hidden` where a picture of it is drawn, and `not tested` else; it is never `removed`, for
    which `controls_needed` are enough, whatever the number of prompts.
    """
    return math.ceil(round(max(1, prompts) / alpha, 9)) - 1
