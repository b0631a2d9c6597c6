"""A price: which prompts to give up, so that the mask stays within a budget; and the frontier of such masks.

Prompts are taken in turn, each time the one whose certificate adds least cost to what is off already (at
equal cost: fewest neurons, then corpus order). The masks on the way are the **frontier**: at least so many
prompts broken by so many neurons. Within a budget, a prompt whose certificate does not fit is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy

from surgery.localization.joint.system import Mask

Costs = Callable[[Mask], numpy.ndarray]


@dataclass(frozen=True)
class Point:
    """One mask of the frontier, and the prompts whose certificates it holds."""

    off: Mask
    prompts: tuple[int, ...]


def frontier(
    certificates: Mapping[int, Mask], costs: Costs, fits: Callable[[Mask], bool] = lambda off: True
) -> list[Point]:
    """Masks of more and more prompts, the cheapest prompts first; the first breaks none.

    Args:
        certificates: prompt -> neurons that break its memory.
        costs: [neurons] what each would cost on top of a mask.
        fits: whether a mask is within the budget.
    """
    points = [Point(frozenset(), ())]
    waiting = dict(certificates)
    while waiting:
        last = points[-1]
        prices = costs(last.off)
        price = {
            prompt: (float(prices[list(one - last.off)].sum()), len(one - last.off), prompt)
            for prompt, one in waiting.items()
        }
        chosen = min(price, key=price.__getitem__)
        off = last.off | waiting.pop(chosen)
        if fits(off):
            points.append(Point(off, (*last.prompts, chosen)))
    return points
