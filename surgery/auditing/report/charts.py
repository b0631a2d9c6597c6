"""Charts of the report as inline SVG: no script, no font, no file from outside; they scale and print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

SOURCE_COLOR, PATCHED_COLOR, CONTROL_COLOR, LINE_COLOR = "#b4541a", "#1b5e9c", "#8a8f98", "#3a3f47"
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 10, 34  # margins around the plotting area


def attack_chart(
    steps: Sequence[int],
    source: Sequence[float] | None,
    patched: Sequence[float] | None,
    controls: Sequence[Sequence[float]],
    threshold: float,
) -> str:
    """The attack's curve: SOURCE and PATCHED against the band of the control images.

    Args:
        steps: x positions, drawn evenly spaced.
        source, patched: score after each number of steps; None where not attacked.
        controls: the same for each control image.
    """
    places = [LEFT + (WIDTH - LEFT - RIGHT) * k / max(1, len(steps) - 1) for k in range(len(steps))]
    values = [*(source or []), *(patched or []), *(one for curve in controls for one in curve), threshold]
    low, high = min(0.0, *values), max(1.0, *values)

    def height(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    def line(curve: Sequence[float], color: str, extra: str = "") -> str:
        points = " ".join(f"{x:.1f},{height(y):.1f}" for x, y in zip(places, curve, strict=True))
        return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2" {extra}/>'

    parts = [_axis(height, low, high), _labels(places, steps)]
    if controls:
        columns = list(zip(*controls, strict=True))
        outline = [(x, height(max(column))) for x, column in zip(places, columns, strict=True)]
        outline += [
            (x, height(min(column))) for x, column in reversed(list(zip(places, columns, strict=True)))
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        parts.append(f'<polygon points="{points}" fill="{CONTROL_COLOR}" opacity="0.22"/>')
        parts.append(line([median(column) for column in columns], CONTROL_COLOR, 'stroke-dasharray="5 4"'))
    y = height(threshold)
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{LINE_COLOR}" '
        'stroke-dasharray="1 3"/>'
        f'<text x="{LEFT + 4}" y="{y - 4:.1f}">replica from {threshold:g}</text>'
    )
    for curve, color in ((source, SOURCE_COLOR), (patched, PATCHED_COLOR)):
        if curve:
            parts.append(line(curve, color))
            parts += [
                f'<circle cx="{x:.1f}" cy="{height(y):.1f}" r="3" fill="{color}"/>'
                for x, y in zip(places, curve, strict=True)
            ]
    return _svg(WIDTH, HEIGHT, parts, "similarity to the training image against steps of the attack")


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
    return _svg(WIDTH, HEIGHT, parts, "change of each ordinary prompt in units of another seed's")


def neuron_map(
    layer_rows: Mapping[str, int],
    zeroed: Mapping[str, Sequence[int]],
    counts: Mapping[str, Mapping[int, int]],
) -> str:
    """Which rows of which value layer are zeroed: one strip per layer, one tick per row, darker for more
    prompts.

    Args:
        layer_rows: layer -> how many rows it has; layers without zeroed rows show an empty strip.
        counts: layer -> row -> prompts it was found for; rows without a count are drawn in full.
    """
    name_width, strip, line_height, width = 190, 330, 22, 560
    most = max((count for rows in counts.values() for count in rows.values()), default=1)
    parts, y = [], 6
    for layer, rows in layer_rows.items():
        chosen = zeroed.get(layer, ())
        parts.append(f'<text x="0" y="{y + 12}">{escape(short_layer(layer))}</text>')
        parts.append(
            f'<rect x="{name_width}" y="{y}" width="{strip}" height="16" fill="#eef0f3" stroke="#d5d9df"/>'
        )
        for row in chosen:
            x = name_width + strip * row / rows
            opacity = 0.35 + 0.65 * counts.get(layer, {}).get(row, most) / most
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(1.6, strip / rows):.1f}" height="16" '
                f'fill="{PATCHED_COLOR}" opacity="{opacity:.2f}"><title>row {row}</title></rect>'
            )
        parts.append(f'<text x="{name_width + strip + 8}" y="{y + 12}">{len(chosen)}</text>')
        y += line_height
    return _svg(width, y + 4, parts, "zeroed rows of each value layer")


def short_layer(layer: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v` -> `down 1, attention 0, block 0`."""
    words = layer.split(".")
    block = words[0].removesuffix("_blocks").removesuffix("_block")
    numbers = [word for word in words[1:] if word.isdigit()]
    labels = ["attention", "block"] if words[0].startswith("mid") else [None, "attention", "block"]
    shown = [
        number if label is None else f"{label} {number}"
        for label, number in zip(labels, numbers, strict=False)
    ]
    return f"{block} {', '.join(shown)}" if labels[0] is None else f"{block}, {', '.join(shown)}"


def _axis(height: object, low: float, high: float) -> str:
    assert callable(height)
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
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 5}" text-anchor="middle">steps of the attack</text>')
    return "".join(parts)


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
