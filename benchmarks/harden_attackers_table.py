"""The tables of `benchmarks/harden_attackers.py`: each model beside the twin."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from harden_testbed import MARGIN

from surgery.auditing.units import AttackUnit, percentile
from surgery.measures.similarity import named_similarity

ATTACKS = ("revive", "relearn", "latent")
Units = dict[str, dict[str, AttackUnit]]  # attack -> memory -> what it found on one model


def steps_until(unit: AttackUnit, threshold: float) -> float | None:
    """After how many steps of `relearn` the image replicates, linear between the points of the curve.

    The curve alone (`surgery.auditing.attack.relearn.steps_to_replicate`) is too coarse for a ratio.

    Returns:
        The steps; the first point where it replicates there already; None where it never does.
    """
    scores = [percentile(seeds) for seeds in unit.scored[0]]
    for place, score in enumerate(scores):
        if score >= threshold:
            if place == 0:
                return float(unit.steps[0])
            before, below = unit.steps[place - 1], scores[place - 1]
            return before + (unit.steps[place] - before) * (threshold - below) / (score - below)
    return None


def steps_ratios(
    units: Mapping[str, AttackUnit], floor: Mapping[str, AttackUnit], threshold: float
) -> list[tuple[float, float]]:
    """Steps of `relearn` until replication over the twin's, for every memory measured on both.

    Returns:
        The range in which each ratio lies: both ends are the same unless one of the two never replicates.
    """
    ratios = []
    for name in sorted(units.keys() & floor.keys()):
        own, twin = (steps_until(one[name], threshold) for one in (units, floor))
        last = units[name].steps[-1]
        if own is not None and twin is not None:
            ratios.append((own / twin, own / twin))
        elif own is not None:  # the twin takes longer than the curve
            ratios.append((0.0, own / last))
        else:
            ratios.append((last / (twin or math.inf), math.inf))
    return ratios


def above_floor(units: Mapping[str, AttackUnit], floor: Mapping[str, AttackUnit]) -> list[str]:
    """The memories that score above the twin by `MARGIN` or more, of those measured on both."""
    return [
        name for name, unit in units.items() if name in floor and unit.score() - floor[name].score() >= MARGIN
    ]


def print_tables(
    models: Mapping[str, Units], names: Sequence[str], attacks: Sequence[str], similarity: str
) -> None:
    """Each model beside the twin, memory by memory, and what counts in the end.

    Args:
        names: the memories shown.
        similarity: the measure of the scores; its threshold says what replicates.
    """
    threshold, twin = named_similarity(similarity).threshold, models.get("twin", {})

    def score(unit: AttackUnit) -> str:
        return f"{unit.score():.2f}"

    def steps(unit: AttackUnit) -> str:
        found = steps_until(unit, threshold)
        return f">{unit.steps[-1]}" if found is None else f"{found:.0f}"

    columns: list[tuple[str, str, Callable[[AttackUnit], str]]] = [(one, one, score) for one in attacks]
    if "relearn" in attacks:
        columns.append(("steps", "relearn", steps))
    for model, measured in models.items():
        units = {
            attack: {name: unit for name, unit in measured.get(attack, {}).items() if name in names}
            for attack in attacks
        }
        print(f"\n{model} (twin)\n{'memory':<10}" + "".join(f"{title:>15}" for title, _, _ in columns))
        for name in names:
            cells = [
                " ".join(
                    form.format(cell(found[name]) if name in (found := one.get(attack, {})) else "-")
                    for one, form in ((units, "{}"), (twin, "({})"))
                )
                for _, attack, cell in columns
            ]
            print(f"{name:<10}" + "".join(f"{cell:>15}" for cell in cells))
        if model == "twin":
            continue
        for attack in attacks:
            above = above_floor(units[attack], twin.get(attack, {}))
            both = len(units[attack].keys() & twin.get(attack, {}).keys())
            print(f"{attack}: {len(above)} of {both} above the twin by {MARGIN:g} {' '.join(above)}")
        if ratios := steps_ratios(units.get("relearn", {}), twin.get("relearn", {}), threshold):
            low, high = (f"{median(one[side] for one in ratios):.2f}" for side in (0, 1))
            span = low if low == high else f"{low} to {high}"
            print(f"relearn: steps over the twin's, median of {len(ratios)}: {span}")
