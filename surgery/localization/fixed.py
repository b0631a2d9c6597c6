"""What stays fixed: where the pictures of a prompt agree at every seed, found from the pictures themselves.

A verbatim memory is the same everywhere, a template is fixed in one part and free in another. The field is
cut into tiles; in each, the differences between neighboring values are compared across seeds:

1. `agreement` of a tile = (variance of the mean over seeds) / (mean over seeds of the variance), on a scale
   where independent seeds give 0 and equal ones 1. Differences, because a slow shading may shift with the
   seed while everything drawn on it stays.
2. A tile is fixed where its agreement reaches 0.6 of the highest tile's; at least a quarter of the tiles
   are, so that a single chance agreement cannot stand for the picture.

No mask is needed. An ordinary prompt gets tiles too, those where it happens to agree: what is measured there
must be calibrated on ordinary prompts treated alike.
"""

from __future__ import annotations

import torch

from surgery.localization.likeness import differences

TILES = 4  # a side
SHARE_OF_HIGHEST = 0.6
LEAST_SHARE = 0.25  # of the tiles


def tile_agreement(fields: torch.Tensor) -> torch.Tensor:
    """How much the seeds agree in each tile: [seeds, channels, height, width] -> [TILES, TILES].

    1 where all are equal, about 0 where they are independent. Of a single seed nothing is known: 0.
    """
    seeds = len(fields)
    if seeds < 2:
        return torch.zeros(TILES, TILES)
    changes = differences(fields.float())
    energy = _per_tile(changes.square().mean(0))
    shared = _per_tile(changes.mean(0).square())
    # The mean of n independent fields keeps 1/n of their energy.
    agreement = (shared / energy.clamp_min(1e-12) - 1 / seeds) / (1 - 1 / seeds)
    return agreement.clamp(0.0, 1.0)


def fixed_tiles(fields: torch.Tensor) -> torch.Tensor:
    """The tiles that stay fixed across seeds: [seeds, channels, height, width] -> bool [TILES, TILES]."""
    agreement = tile_agreement(fields)
    least = max(1, round(LEAST_SHARE * agreement.numel()))
    level = min(
        SHARE_OF_HIGHEST * float(agreement.max()),
        float(agreement.flatten().sort(descending=True).values[least - 1]),
    )
    return agreement >= level


def fixed_mask(fields: torch.Tensor) -> torch.Tensor:
    """`fixed_tiles` at the fields' own size: bool [height, width]."""
    return spread(fixed_tiles(fields), *fields.shape[-2:])


def spread(tiles: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tiles [TILES, TILES] -> [height, width]."""
    rows = (torch.arange(height) * TILES // height).clamp_max(TILES - 1)
    columns = (torch.arange(width) * TILES // width).clamp_max(TILES - 1)
    return tiles[rows][:, columns]


def _per_tile(field: torch.Tensor) -> torch.Tensor:
    """The sum over channels and places of each tile: [channels, height, width] -> [TILES, TILES]."""
    summed = torch.nn.functional.adaptive_avg_pool2d(field.sum(0)[None, None], TILES)
    return summed[0, 0].cpu()
