"""How often does the verdict err? `python benchmarks/verdict_errors.py [--json]`, simulated, a minute.

Control scores are drawn from a normal distribution, or from one with a heavy upper tail (Gumbel, scaled to
one deviation); an image of which a share of the memory is kept scores that share of SOURCE's effect more.
Printed for the old rule (`removed` where no difference was seen) and for ours (half of the memory is
rejected), in one run:

1. the share of audits in which one image is called removed, by how much of its memory is kept;
2. the share of clean checkpoints of 17, 50 and 100 prompts that pass as a whole, prompts sharing their
   controls.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy

from surgery.auditing.judgement.one_attack import KEPT
from surgery.auditing.judgement.statistics import (
    critical_score,
    memory_effect,
    rank_p_value,
    removal_p_value,
)

ALPHA, TRIALS = 0.05, 4000
CONTROLS, EFFECTS, SHARES, PROMPTS = (19, 24, 48), (6.0, 10.0), (0.0, 0.25, 0.5, 0.75, 1.0), (17, 50, 100)
Draw = Callable[[numpy.random.Generator, int], numpy.ndarray]


def normal(random: numpy.random.Generator, count: int) -> numpy.ndarray:
    """One deviation wide."""
    return random.normal(0, 1, count)


def heavy(random: numpy.random.Generator, count: int) -> numpy.ndarray:
    """A long upper tail, one deviation wide."""
    return random.gumbel(0, 1, count) / 1.2825


DISTRIBUTIONS: dict[str, Draw] = {"normal": normal, "heavy tail": heavy}


def old_rule(score: float, controls: list[float], source: float) -> bool:
    """Removed where the rank test sees no difference, and SOURCE's would have been seen."""
    return rank_p_value(score, controls) > ALPHA and source > critical_score(controls, ALPHA)


def new_rule(score: float, controls: list[float], source: float) -> bool:
    """Removed where half of the memory is rejected."""
    if source <= critical_score(controls, ALPHA) or rank_p_value(score, controls) <= ALPHA / 17:
        return False
    margin = KEPT * memory_effect(source, controls)
    return removal_p_value(score, controls, margin) <= ALPHA


RULES = {"old": old_rule, "new": new_rule}


def one_image() -> list[dict[str, object]]:
    """Table 1."""
    rows: list[dict[str, object]] = []
    for kind, draw in DISTRIBUTIONS.items():
        for count in CONTROLS:
            for effect in EFFECTS:
                random = numpy.random.default_rng(7)
                called = {(rule, share): 0 for rule in RULES for share in SHARES}
                for _ in range(TRIALS):
                    controls = draw(random, count).tolist()
                    for share in SHARES:
                        score = share * effect + float(draw(random, 1)[0])
                        for rule, decide in RULES.items():
                            called[rule, share] += decide(score, controls, effect)
                for rule in RULES:
                    rows.append(
                        {"scores": kind, "controls": count, "effect": effect, "rule": rule}
                        | {f"kept {share:g}": called[rule, share] / TRIALS for share in SHARES}
                    )
    return rows


def clean_checkpoints() -> list[dict[str, object]]:
    """Table 2."""
    rows: list[dict[str, object]] = []
    trials = TRIALS // 8
    for kind, draw in DISTRIBUTIONS.items():
        for count in CONTROLS:
            for effect in EFFECTS:
                random = numpy.random.default_rng(11)
                passed = {(rule, prompts): 0 for rule in RULES for prompts in PROMPTS}
                for _ in range(trials):
                    controls = draw(random, count).tolist()
                    scores = draw(random, max(PROMPTS)).tolist()
                    for rule, decide in RULES.items():
                        fails = [not decide(score, controls, effect) for score in scores]
                        for prompts in PROMPTS:
                            passed[rule, prompts] += not any(fails[:prompts])
                for rule in RULES:
                    rows.append(
                        {"scores": kind, "controls": count, "effect": effect, "rule": rule}
                        | {f"{prompts} prompts": passed[rule, prompts] / trials for prompts in PROMPTS}
                    )
    return rows


def print_rows(title: str, rows: list[dict[str, object]]) -> None:
    """One table."""
    print(f"\n{title}")
    print("  " + " ".join(f"{name:>11}" for name in rows[0]))
    for row in rows:
        cells = [
            f"{value:.1%}" if isinstance(value, float) and name not in ("effect",) else f"{value}"
            for name, value in row.items()
        ]
        print("  " + " ".join(f"{cell:>11}" for cell in cells))


def main() -> None:
    """The command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parsed = parser.parse_args()
    one, clean = one_image(), clean_checkpoints()
    if parsed.json:
        print(json.dumps({"one_image": one, "clean_checkpoints": clean}))
        return
    print_rows("called removed, by the share of the memory that is kept", one)
    print_rows("clean checkpoints that pass as a whole", clean)


if __name__ == "__main__":
    main()
