"""How often does the verdict err? `python benchmarks/verdict_errors.py [--json]`, simulated, two minutes.

Control scores are drawn from distributions one deviation wide: normal, Student's t with 3 degrees of freedom
(both tails heavy), Gumbel and exponential (heavy upper tails). An image of which a share of the memory is
kept scores that share of SOURCE's effect more. SOURCE's own score is either known exactly or as noisy as a
control's, which is the worst case: SOURCE draws its memories steadily. Printed for the old rule (`removed`
where no difference was seen), for the rule before this one (half of the memory is rejected, its worth counted
from the controls' median) and for ours, in one run:

1. the share of audits in which one image is called removed, by how much of its memory is kept, audited alone
   and among 17 prompts, SOURCE's effect being six deviations;
2. the share of clean checkpoints of 17, 50 and 100 prompts that pass as a whole, prompts sharing their
   controls, SOURCE's scores known.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import cache
from itertools import product

import numpy

from surgery.auditing.judgement.one_attack import KEPT
from surgery.auditing.judgement.statistics import (
    critical_score,
    memory_effect,
    rank_p_value,
    removal_p_value,
)

ALPHA, TRIALS = 0.05, 2000
CONTROLS, CONTROLS_OF_MANY, PROMPTS = (19, 24), (24, 39, 79), (17, 50, 100)
EFFECTS, SHARES = (6.0, 10.0), (0.0, 0.25, 0.5, 0.75)
AMONG = 17  # prompts of one audit
Draw = Callable[[numpy.random.Generator, int], numpy.ndarray]
Rule = Callable[[float, list[float], float, list[float]], bool]
DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda random, count: random.normal(0, 1, count),
    "t": lambda random, count: random.standard_t(3, count) / 3**0.5,
    "gumbel": lambda random, count: random.gumbel(0, 1, count) / 1.2825,
    "exponential": lambda random, count: random.exponential(1, count),
}


def old_rule(score: float, controls: list[float], source: float, sources: list[float]) -> bool:
    """Removed where the rank test sees no difference, and SOURCE's would have been seen."""
    return rank_p_value(score, controls) > ALPHA and source > critical_score(controls, ALPHA)


def from_median(score: float, controls: list[float], source: float, sources: list[float]) -> bool:
    """Removed where half of the memory is rejected, SOURCE's score taken as it is."""
    return _rejected(score, controls, source, source - float(numpy.median(controls)))


def new_rule(score: float, controls: list[float], source: float, sources: list[float]) -> bool:
    """Removed where half of the memory is rejected."""
    return _rejected(score, controls, source, memory_effect(source, controls, sources))


def _rejected(score: float, controls: list[float], source: float, effect: float) -> bool:
    if source <= critical_score(controls, ALPHA) or rank_p_value(score, controls) <= ALPHA / 17:
        return False
    return removal_p_value(score, controls, KEPT * effect) <= ALPHA


RULES: dict[str, Rule] = {"old": old_rule, "median": from_median, "ours": new_rule}


def sources_of(
    draw: Draw, random: numpy.random.Generator, effect: float, noisy: bool, count: int
) -> list[float]:
    """SOURCE's scores of so many memories of one effect."""
    return (effect + (draw(random, count) if noisy else numpy.full(count, usual(draw)))).tolist()


@cache
def usual(draw: Draw) -> float:
    """The median of a distribution."""
    return float(numpy.median(draw(numpy.random.default_rng(0), 100_001)))


def one_image() -> list[dict[str, object]]:
    """Table 1."""
    rows: list[dict[str, object]] = []
    for (kind, draw), count, noisy in product(DISTRIBUTIONS.items(), CONTROLS, (False, True)):
        effect = EFFECTS[0]
        random = numpy.random.default_rng(7)
        rules = {**{name: (rule, 1) for name, rule in RULES.items()}, f"ours, of {AMONG}": (new_rule, AMONG)}
        called = {(rule, share): 0 for rule in rules for share in SHARES}
        for _ in range(TRIALS):
            controls = draw(random, count).tolist()
            sources = sources_of(draw, random, effect, noisy, AMONG)
            for share in SHARES:
                score = share * effect + float(draw(random, 1)[0])
                for name, (rule, among) in rules.items():
                    called[name, share] += rule(score, controls, sources[0], sources[:among])
        for name in rules:
            rows.append(
                {"scores": kind, "controls": count, "effect": effect, "SOURCE": "noisy" if noisy else "known"}
                | {"rule": name}
                | {f"kept {share:g}": called[name, share] / TRIALS for share in SHARES}
            )
    return rows


def clean_checkpoints() -> list[dict[str, object]]:
    """Table 2."""
    rows: list[dict[str, object]] = []
    trials = TRIALS // 20
    for (kind, draw), count, effect in product(DISTRIBUTIONS.items(), CONTROLS_OF_MANY, EFFECTS):
        random = numpy.random.default_rng(11)
        passed = {(rule, prompts): 0 for rule in RULES for prompts in PROMPTS}
        for _ in range(trials):
            controls = draw(random, count).tolist()
            scores = draw(random, max(PROMPTS)).tolist()
            sources = sources_of(draw, random, effect, False, max(PROMPTS))
            for name, rule in RULES.items():
                for prompts in PROMPTS:
                    known = sources[:prompts]
                    passed[name, prompts] += all(
                        rule(score, controls, source, known)
                        for score, source in zip(scores[:prompts], known, strict=True)
                    )
        for name in RULES:
            rows.append(
                {"scores": kind, "controls": count, "effect": effect, "rule": name}
                | {f"{prompts} prompts": passed[name, prompts] / trials for prompts in PROMPTS}
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
