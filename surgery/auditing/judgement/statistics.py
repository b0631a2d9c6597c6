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
   p = (1 + number of controls at or below score - d) / (K + 1) is exact where d is known, and rejecting it is
   the only way to `removed`. Over several attacks, all must reject (intersection-union: no correction is
   due). d is not known but measured, from SOURCE's one score, which may be high by chance, the more so
   where scores have a long upper tail; `memory_effect` says how that is kept from paying, and
   `benchmarks/verdict_errors.py` what is left of it, for a SOURCE as noisy as a control.
6. power: by how much the score of a never-seen image must rise before the test of step 1 notices in 80 % of
   cases, read off the controls themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import median

import numpy
from scipy import stats

from surgery.auditing.judgement.corrections import CORRECTIONS
from surgery.errors import UsageError

SEVERAL = 7  # prompts: SOURCE's median score over so many is no chance
FROM_MIDDLE, FROM_ABOVE = 0.6, 0.9  # of the controls: see `memory_effect`
EXACT_PAIRS = 5_000  # up to so many (image, control) pairs every permutation is counted
EFFECT = 10.0  # of a distinct memory in SOURCE, in deviations of the controls (docs/audit.md)
CLEAN_SHARE = 0.9  # of audits of a clean checkpoint that should pass the removal test of an attack
STEPS = 20  # the most controls that are looked at, in units of the fewest: more tell next to nothing more
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


def removal_p_value(score: float, controls: Sequence[float], margin: float) -> float:
    """The exact p-value of "the image still scores `margin` more than a never-seen one"; 1 without controls.

    Args:
        score: of the image on PATCHED.
        controls: of never-seen images on PATCHED.
        margin: what counts as left: half of SOURCE's effect, as `memory_effect` measures it.
    """
    return (1 + sum(control <= score - margin for control in controls)) / (len(controls) + 1)


def memory_effect(source: float, controls: Sequence[float], sources: Sequence[float] = ()) -> float:
    """What a memory is worth in SOURCE, at least: how far its score lies above what controls score.

    SOURCE's score is one draw. Were it taken as it is, a memory whose score is high by chance would pass for
    more than it is worth, and half of it for less than half. So

    1. where SOURCE was attacked for `SEVERAL` prompts or more, no memory counts for more than the median one,
       and it is counted from the controls' 60th percentile;
    2. where there are fewer, it is counted from their 90th percentile: that costs more power.

    Args:
        source: SOURCE's score.
        controls: of never-seen images on PATCHED.
        sources: SOURCE's scores of all audited prompts, this one among them.
    """
    reference = float(numpy.quantile(numpy.asarray(controls, float), _counted_from(len(sources))))
    return (min(source, median(sources)) if len(sources) >= SEVERAL else source) - reference


def _counted_from(prompts: int) -> float:
    """From which share of the controls the worth of a memory is counted."""
    return FROM_MIDDLE if prompts >= SEVERAL else FROM_ABOVE


def controls_needed(
    alpha: float = 0.05, prompts: int = 1, correction: str = "benjamini-hochberg", hidden: int = 1
) -> int:
    """The fewest controls with which so many hidden images among so many prompts can be told by rank alone.

    The smallest p-value, 1 / (K + 1), must survive the correction for all prompts. For one prompt that is
    also what `removed` takes, and `removed` takes no more for many: its tests need no correction. An image
    that ranks cannot single out is still `hidden` where a picture of it is drawn, and never `removed`.

    Raises:
        UsageError: the correction is unknown.
    """
    if correction not in CORRECTIONS:
        raise UsageError(correction, "is not a known correction", f"choose from {', '.join(CORRECTIONS)}")
    tests = max(1, prompts) / (max(1, hidden) if correction == "benjamini-hochberg" else 1)
    return math.ceil(round(max(1.0, tests) / alpha, 9)) - 1


def clean_checkpoint_share(prompts: int, controls: int, alpha: float = 0.05, effect: float = EFFECT) -> float:
    """In which share of audits all prompts of a clean checkpoint pass one attack's removal test.

    Calculated for normal scores and a known margin, half of `memory_effect`: the highest of `prompts` scores,
    less the margin, must stay below the control that decides, whose rank is fixed and whose place is a beta
    quantile.

    Args:
        effect: of a memory in SOURCE, in standard deviations of the controls.
    """
    below = math.floor(round(alpha * (controls + 1), 9)) - 1
    if below < 0:
        return 0.0
    chances = (numpy.arange(2000) + 0.5) / 2000
    deciding = stats.norm.ppf(stats.beta.ppf(chances, below + 1, controls - below))
    margin = (effect - stats.norm.ppf(_counted_from(prompts))) / 2
    return float((stats.norm.cdf(deciding + margin) ** max(1, prompts)).mean())


def controls_wanted(prompts: int, alpha: float = 0.05, correction: str = "benjamini-hochberg") -> int:
    """How many controls an audit of so many prompts should have, for `--dry-run` to say.

    With fewer than `controls_needed(alpha)` nothing can be said; with as many as this

    1. a clean checkpoint passes the removal test of one attack in `CLEAN_SHARE` of audits, where SOURCE's
       memories stand out by `EFFECT` deviations of the controls (less distinct memories are not helped by
       more controls: `clean_checkpoint_share` rises no further);
    2. ranks tell the hidden images, where half of the prompts or more are hidden.

    It is a number whose levels are not wasted: alpha * (K + 1) is whole, as far as alpha allows.
    """
    step, most = controls_needed(alpha) + 1, STEPS
    telling = controls_needed(alpha, prompts, correction, math.ceil(prompts / 2))
    first = max(1, math.ceil((telling + 1) / step))
    limit = clean_checkpoint_share(prompts, most * step - 1, alpha)
    enough = min(CLEAN_SHARE, 0.97 * limit)
    for times in range(first, most):
        if clean_checkpoint_share(prompts, times * step - 1, alpha) >= enough:
            return times * step - 1
    return max(first, most) * step - 1
