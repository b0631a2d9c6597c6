"""The pictures of an attack: at which seeds and guidances they are drawn, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from surgery.auditing.drawing import Drawing
from surgery.auditing.settings import AuditSettings


def drawings_of(settings: AuditSettings) -> tuple[Drawing, ...]:
    """How attacked pictures are drawn: at guidance 1, 3 and the pipeline's own, as a rule."""
    return tuple(Drawing(settings.steps, guidance, settings.batch_size) for guidance in settings.guidances())


def picture_seeds_of(settings: AuditSettings) -> dict[str, Any]:
    """Which seeds choose and which are scored, as arguments of every attack."""
    return {
        "selection_seeds": tuple(settings.seeds_for("selection", settings.selection_seeds)),
        "scored_seeds": tuple(settings.seeds_for("scored", settings.attack_seeds)),
    }


def forwards_of_a_point(variants: Sequence[Drawing], selection: int, scored: int) -> int:
    """The most that a point's pictures cost under one mask: every variant's selection, the dearest scored.

    Args:
        variants: how each of them is drawn.
        selection, scored: how many seeds.
    """
    return sum(one.forwards(selection) for one in variants) + max(one.forwards(scored) for one in variants)


def draw_by_guidance(
    places: Sequence[int],
    drawings: Sequence[Drawing],
    draw: Callable[[list[int], Drawing], torch.Tensor],
) -> torch.Tensor:
    """Draw variants that are start x guidance, all of one guidance together.

    Args:
        places: of the variants; the variant of start s and drawing d is s * len(drawings) + d.
        draw: (starts, drawing) -> uint8 [starts, seeds, 3, height, width].

    Returns:
        uint8 [places, seeds, 3, height, width].
    """
    found: dict[int, torch.Tensor] = {}
    for number, drawing in enumerate(drawings):
        here = [place for place in dict.fromkeys(places) if place % len(drawings) == number]
        if here:
            drawn = draw([place // len(drawings) for place in here], drawing)
            found.update(zip(here, drawn, strict=True))
    return torch.stack([found[place] for place in places])
