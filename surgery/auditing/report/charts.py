"""Charts of the report as inline SVG: no script, no font, no file from outside; they scale and print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

SOURCE_COLOR, PATCHED_COLOR, TWIN_COLOR = "#b4541a", "#1b5e9c", "#7a3b8f"
CONTROL_COLOR, LINE_COLOR = "#8a8f98", "#3a3f47"
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 10, 34  # margins around the plotting area
SCORES = 58  # the strip at the right in which the scores stand beside each other


@dataclass(frozen=True)
class Attacked:
    """One model's attack: its curve, and what the verdict was given.

    Attributes:
        color: of its line.
        curve: similarity at each point of the curve, on the pictures that chose the point; SOURCE's may end
            early.
        score: on the other pictures, that chose nothing.
    """

    color: str
    curve: Sequence[float]
    score: float


def attack_chart(
    steps: Sequence[int],
    models: Sequence[Attacked],
    controls: Sequence[Attacked],
    threshold: float,
    title: str = "",
) -> str:
    """An attack's curves against the band of the control images; at the right the scores beside each other.

    Args:
        steps: x positions, drawn evenly spaced.
        models: SOURCE, PATCHED and the twin, as far as they were attacked.
        controls: the control images on PATCHED; their colors are not looked at.
        title: for whoever cannot see it.
    """
    end = WIDTH - RIGHT - SCORES  # of the curves
    places = [LEFT + (end - LEFT) * k / max(1, len(steps) - 1) for k in range(len(steps))]
    values = [value for one in (*models, *controls) for value in (*one.curve, one.score)]
    low, high = min(0.0, threshold, *values), max(1.0, threshold, *values)

    def height(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    def line(curve: Sequence[float], color: str, extra: str = "") -> str:
        points = " ".join(f"{x:.1f},{height(y):.1f}" for x, y in zip(places, curve, strict=False))
        return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2" {extra}/>'

    parts = [_axis(height, low, high), _labels(places, steps), _score_label(end)]
    if controls:
        columns = list(zip(*(one.curve for one in controls), strict=True))
        parts.append(_band(places, columns, height))
        parts.append(line([median(column) for column in columns], CONTROL_COLOR, 'stroke-dasharray="5 4"'))
        parts += [_tick(end, height(one.score)) for one in controls]
    y = height(threshold)
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{LINE_COLOR}" '
        'stroke-dasharray="1 3"/>'
        f'<text x="{LEFT + 4}" y="{y - 4:.1f}">replica from {threshold:g}</text>'
    )
    for place, one in enumerate(models):
        parts.append(line(one.curve, one.color))
        parts += [
            f'<circle cx="{x:.1f}" cy="{height(y):.1f}" r="3" fill="{one.color}"/>'
            for x, y in zip(places, one.curve, strict=False)
        ]
        x = end + SCORES / 2 + 9 * (place - (len(models) - 1) / 2)
        parts.append(
            f'<circle class="score" cx="{x:.1f}" cy="{height(one.score):.1f}" r="4.5" fill="#fff" '
            f'stroke="{one.color}" stroke-width="2.5"/>'
        )
    return svg(WIDTH, HEIGHT, parts, title or "similarity to the training image against effort of the attack")


def _band(
    places: Sequence[float], columns: Sequence[Sequence[float]], height: Callable[[float], float]
) -> str:
    """The range of the controls at each point; a single point's is as wide as a dot."""
    if len(places) == 1:
        places, columns = [places[0] - 4, places[0] + 4], [columns[0]] * 2
    above = [(x, height(max(column))) for x, column in zip(places, columns, strict=True)]
    below = [(x, height(min(column))) for x, column in zip(places, columns, strict=True)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*above, *reversed(below)])
    return f'<polygon points="{points}" fill="{CONTROL_COLOR}" opacity="0.22"/>'


def _tick(end: float, y: float) -> str:
    return (
        f'<line class="control" x1="{end + 8:g}" x2="{end + SCORES - 2:g}" y1="{y:.1f}" y2="{y:.1f}" '
        f'stroke="{CONTROL_COLOR}" stroke-width="1.5" opacity="0.6"/>'
    )


def _score_label(end: float) -> str:
    middle = end + SCORES / 2
    return f'<text x="{middle:g}" y="{HEIGHT - 20}" text-anchor="middle">score</text>'


def change_chart(changes: Sequence[float]) -> str:
    """The change of each ordinary prompt, sorted, in units of what another seed changes (the line at 1)."""
    ordered = sorted(changes)
    high = max(1.2, *ordered) * 1.05

    def height(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / high

    span = WIDTH - LEFT - RIGHT
    parts = [_axis(height, 0.0, high)]
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height(1):.1f}" y2="{height(1):.1f}" '
        f'stroke="{SOURCE_COLOR}" stroke-dasharray="5 4"/>'
        f'<text x="{LEFT + 4}" y="{height(1) - 4:.1f}">as much as another seed</text>'
    )
    for place, value in enumerate(ordered):
        x = LEFT + span * (place + 0.5) / len(ordered)
        color = SOURCE_COLOR if value > 1 else PATCHED_COLOR
        parts.append(f'<circle cx="{x:.1f}" cy="{height(value):.1f}" r="3.2" fill="{color}"/>')
    middle = LEFT + span / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">ordinary prompts, sorted</text>')
    return svg(WIDTH, HEIGHT, parts, "change of each ordinary prompt in units of another seed's")


def _axis(height: Callable[[float], float], low: float, high: float) -> str:
    parts = []
    ticks = [tick / 4 for tick in range(-8, 41) if low - 1e-9 <= tick / 4 <= high + 1e-9]
    step = max(1, len(ticks) // 6)
    for tick in ticks[::step]:
        y = height(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e7eb"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    return "".join(parts)


def _labels(places: Sequence[float], steps: Sequence[int]) -> str:
    parts = [
        f'<text x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{step}</text>'
        for x, step in zip(places, steps, strict=True)
    ]
    middle = (places[0] + places[-1]) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 5}" text-anchor="middle">effort of the attack</text>')
    return "".join(parts)


def svg(width: int, height: int, parts: Sequence[str], title: str, grows: bool = True) -> str:
    """An inline SVG of that size, shown larger where it may; its title is for whoever cannot see it."""
    limit = "" if grows else f' style="max-width:{width}px"'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"{limit} '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
