"""Maps of the report as inline SVG: which rows are zeroed, and which part of a model holds a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from surgery.auditing.report.charts import LINE_COLOR, PATCHED_COLOR, svg

CELL_WIDTH, CELL_HEIGHT = 46, 22
NAME_WIDTH, HEAD_HEIGHT = 190, 118
NAME_LETTERS = 30  # of a row's name; the whole of it is the row's tooltip


def part_map(
    parts: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
    threshold: float,
) -> str:
    """A table of parts x prompts as a heat map: the more a picture comes back with a part, the darker.

    Args:
        parts: the columns: what was put into PATCHED.
        rows: (name, similarity with each part); None where it was not measured.
        threshold: cells from here up, which are replicas, have a frame.
    """
    width = NAME_WIDTH + CELL_WIDTH * len(parts) + HEAD_HEIGHT // 2
    cells = []
    for place, part in enumerate(parts):
        x, y = NAME_WIDTH + CELL_WIDTH * (place + 0.5), HEAD_HEIGHT - 8
        cells.append(f'<text x="{x:.0f}" y="{y}" transform="rotate(-45 {x:.0f} {y})">{escape(part)}</text>')
    for line, (name, values) in enumerate(rows):
        y = HEAD_HEIGHT + CELL_HEIGHT * line
        shown = name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…"
        cells.append(f'<text x="0" y="{y + 15}">{escape(shown)}<title>{escape(name)}</title></text>')
        cells += [
            _cell(NAME_WIDTH + CELL_WIDTH * place, y, value, threshold, f"{part}: {name}")
            for place, (part, value) in enumerate(zip(parts, values, strict=True))
        ]
    height = HEAD_HEIGHT + CELL_HEIGHT * len(rows) + 4
    title = "similarity to the training image with each part put into PATCHED"
    return svg(width, height, cells, title, grows=False)


def _cell(x: float, y: float, value: float | None, threshold: float, title: str) -> str:
    """One cell: its shade says how alike, its number too, a frame that it is a replica."""
    place = f'x="{x:g}" y="{y:g}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}"'
    if value is None:
        return f'<rect {place} fill="#f3f4f6"><title>{escape(title)}: not measured</title></rect>'
    strength = min(1.0, max(0.0, value))
    frame = f' stroke="{LINE_COLOR}" stroke-width="2"' if value >= threshold else ""
    ink = "#ffffff" if strength > 0.55 else LINE_COLOR
    return (
        f'<rect {place} fill="#eef0f3"/>'
        f'<rect class="cell" {place} fill="{PATCHED_COLOR}" fill-opacity="{strength:.2f}"{frame}>'
        f"<title>{escape(title)}: {value:.2f}</title></rect>"
        f'<text x="{x + CELL_WIDTH / 2 - 1:g}" y="{y + 14:g}" text-anchor="middle" style="fill:{ink}">'
        f"{value:.2f}</text>"
    )


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
    return svg(width, y + 4, parts, "zeroed rows of each value layer")


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
