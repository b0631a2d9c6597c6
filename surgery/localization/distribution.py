"""Mean and standard deviation of some scores of ordinary prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Distribution:
    """Mean, standard deviation (n - 1) and number of some scores."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """The distribution of at least two values."""
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(mean, math.sqrt(squares / (len(values) - 1)), len(values))

    def cutoff(self, deviations: float) -> float:
        """mean + deviations x std."""
        return self.mean + deviations * self.std
