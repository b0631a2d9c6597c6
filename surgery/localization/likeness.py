"""The likeness of two fields: the correlation of what changes in them from place to place.

Differences between neighboring values are compared, not the values: shapes survive there where brightness,
contrast and slow shading, which a seed shifts in an exact replica, do not count.
"""

from __future__ import annotations

import torch


def differences(fields: torch.Tensor) -> torch.Tensor:
    """[..., channels, height, width] -> [..., 2 x channels, height, width]: to the right, and downwards.

    0 at the far border.
    """
    across = torch.nn.functional.pad(fields[..., 1:] - fields[..., :-1], (0, 1))
    down = torch.nn.functional.pad(fields[..., 1:, :] - fields[..., :-1, :], (0, 0, 0, 1))
    return torch.cat([across, down], dim=-3)


def correlation(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The cosine of pairs of fields, 0 where one of them is constant; gradients flow.

    Args:
        first, second: [..., channels, height, width]; they are broadcast.
        mask: [height, width], true where the fields count; default: everywhere.

    Returns:
        [...].
    """
    if mask is not None:
        first, second = first * mask, second * mask
    axes = (-3, -2, -1)
    energy = first.square().sum(axes) * second.square().sum(axes)
    return (first * second).sum(axes) / energy.clamp_min(1e-24).sqrt()
