"""`surgery plan NEURONS`: what its set would buy, prompt by prompt, and at which price."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from surgery.files import strict_json
from surgery.text import printable

if TYPE_CHECKING:
    from surgery.localization.joint.planned import FrontierPoint, Plan

POINTS_SHOWN = 25
PROMPTS_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery plan`; see its help."""
    parser.add_argument("neurons", metavar="NEURONS", help="neurons.json, as localize wrote it")
    parser.add_argument("--plot", metavar="FILE", help="draw the plan there, as .png or .svg")


def run(arguments: argparse.Namespace) -> int:
    """Read, draw if asked to, print; always 0."""
    from surgery.localization.joint.plan import plan

    found = plan(arguments.neurons, arguments.plot)
    print(strict_json(found.as_json()) if arguments.json else as_table(found))
    if arguments.plot and not arguments.quiet and not arguments.json:
        print(f"\n-> {printable(arguments.plot)}")
    return 0


def as_table(found: Plan) -> str:
    """The frontier and the map for people."""
    lines = ["neurons  prompts broken  ordinary change (estimated, in seeds)"]
    lines += [_line(point) for point in found.frontier[:POINTS_SHOWN]]
    if len(found.frontier) > POINTS_SHOWN:
        lines.append(f"... and {len(found.frontier) - POINTS_SHOWN} more")
    change = found.chosen.change
    measured = "" if change is None else f", ordinary change {change:.3g} measured"
    lines += [
        "",
        f"the set: {found.chosen.neurons} neurons, {found.chosen.prompts} of {found.memorized} memorized "
        f"prompts broken{measured}",
    ]
    if found.left:
        shown = "; ".join(printable(prompt) for prompt in found.left[:PROMPTS_SHOWN])
        more = f"; and {len(found.left) - PROMPTS_SHOWN} more" if len(found.left) > PROMPTS_SHOWN else ""
        lines.append(f"left: {shown}{more}")
    lines += ["", "layer: row (prompts that need it)"]
    layers: dict[str, list[str]] = {}
    for (layer, row), count in found.needed_by.items():
        layers.setdefault(layer, []).append(f"{row} ({count})")
    lines += [f"{layer}: {', '.join(rows)}" for layer, rows in layers.items()]
    return "\n".join(lines)


def _line(point: FrontierPoint) -> str:
    change = "-" if point.change is None else f"{point.change:.3f}"
    return f"{point.neurons:>7}  {point.prompts:>14}  {change:>15}"
