"""What testing many prompts at once costs: adjusted p-values, by Benjamini-Hochberg or Holm.

Apart from the other statistics because settings name the corrections, and must not wait for scipy.
"""

from __future__ import annotations

from collections.abc import Sequence

from surgery.errors import UsageError

CORRECTIONS = ("benjamini-hochberg", "holm")


def corrected(p_values: Sequence[float], correction: str = "benjamini-hochberg") -> list[float]:
    """Adjusted p-values for m tests: reject where the adjusted value is at most alpha.

    Raises:
        UsageError: the correction is unknown.
    """
    if correction not in CORRECTIONS:
        raise UsageError(correction, "is not a known correction", f"choose from {', '.join(CORRECTIONS)}")
    if not p_values:
        return []
    if correction == "benjamini-hochberg":
        from scipy import stats

        return [float(value) for value in stats.false_discovery_control(p_values, method="bh")]
    count = len(p_values)
    adjusted, highest = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
