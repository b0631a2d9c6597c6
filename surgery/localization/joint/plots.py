"""The plan as a picture: the frontier on the left, the neuron map on the right. Needs matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.files import check_writable, write_atomically
from surgery.localization.joint.planned import Plan

KINDS = (".png", ".svg")
INK, MEMORY, ORDINARY = "#222222", "#b2182b", "#2166ac"


def draw_plan(found: Plan, path: str | Path) -> None:
    """Draw a plan as PNG or SVG, by the name's ending.

    Raises:
        UsageError: another ending, matplotlib is missing, or the file can't be written.
    """
    output = check_writable(path)
    if output.suffix.lower() not in KINDS:
        raise UsageError(
            output, f"ends in {output.suffix or 'nothing'!r}", f"name a {' or '.join(KINDS)} file"
        )
    figure = plan_figure(found)
    image = io.BytesIO()
    # Dates and random ids out: the same plan gives the same file.
    kind = output.suffix.lower().removeprefix(".")
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "surgery"}):
        figure.savefig(image, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    write_atomically(output, image.getvalue())


def plan_figure(found: Plan) -> Any:
    """The picture as a matplotlib figure.

    Raises:
        UsageError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "matplotlib",
            "draws plans, and is not installed",
            "pip install surgery[plots], or leave out --plot",
        ) from None
    layers = list(dict.fromkeys(layer for layer, _ in found.needed_by))
    figure = Figure(figsize=(12, max(4.0, 1.6 + 0.4 * len(layers))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(5, 6))
    _draw_frontier(left, found)
    _draw_map(right, figure, found, layers)
    return figure


def _draw_frontier(axes: Any, found: Plan) -> None:
    neurons = [point.neurons for point in found.frontier]
    axes.plot(
        neurons,
        [point.prompts for point in found.frontier],
        color=MEMORY,
        marker="o",
        markersize=4,
        drawstyle="steps-post",
    )
    axes.axhline(found.memorized, color=MEMORY, linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{found.memorized} memorized", (0, found.memorized), textcoords="offset points", xytext=(4, -12)
    )
    chosen = f"the set: {found.chosen.neurons} neurons, {found.chosen.prompts} prompts"
    axes.plot(
        [found.chosen.neurons],
        [found.chosen.prompts],
        marker="*",
        markersize=15,
        color=INK,
        linestyle="none",
        label=chosen,
    )
    axes.legend(loc="lower right", frameon=False)  # where a rising curve leaves room
    axes.set_xlabel("neurons off")
    axes.set_ylabel("prompts broken (at least)", color=MEMORY)
    axes.set_ylim(0, max(1, found.memorized) * 1.08)
    axes.set_xlim(left=0)
    axes.locator_params(axis="y", integer=True)
    axes.set_title("what a mask buys")
    changes = [(point.neurons, point.change) for point in found.frontier if point.change is not None]
    if changes:
        other = axes.twinx()
        other.plot(*zip(*changes, strict=True), color=ORDINARY, marker=".", linewidth=1)
        if found.chosen.change is not None:
            other.plot([found.chosen.neurons], [found.chosen.change], marker="x", color=ORDINARY)
        other.set_ylim(bottom=0)
        other.set_ylabel("ordinary change, in seeds (x: measured)", color=ORDINARY)


def _draw_map(axes: Any, figure: Any, found: Plan, layers: list[str]) -> None:
    places = [layers.index(layer) for layer, _ in found.needed_by]
    rows = [row for _, row in found.needed_by]
    counts = list(found.needed_by.values())
    axes.set_title("which neurons, and how many prompts need each")
    axes.set_xlabel("row of the value layer")
    axes.set_yticks(range(len(layers)), [_short(layer) for layer in layers])
    axes.set_ylim(max(1, len(layers)) - 0.5, -0.5)
    if not counts:
        return
    drawn = axes.scatter(
        rows, places, c=counts, cmap="YlOrRd", vmin=0, vmax=max(1, *counts), marker="s", s=45,
        edgecolors=INK, linewidths=0.4,
    )  # fmt: skip
    axes.grid(axis="y", linewidth=0.3)
    axes.set_axisbelow(True)
    ticks = sorted({0, max(counts) // 2, max(1, *counts)})
    figure.colorbar(drawn, ax=axes, label="prompts", ticks=ticks)


def _short(layer: str) -> str:
    """`down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v` -> `down 0.1.0`."""
    words = layer.split(".")
    numbers = ".".join(word for word in words[1:] if word.isdecimal())
    return f"{words[0].removesuffix('_block').removesuffix('_blocks')} {numbers}"
