"""A similarity for pictures of real sizes: the best correlation over shifts, scales and the mirror image.

An exact copy that is shifted by two pixels at 512 x 512 correlates with its original like a stranger, pixel
by pixel. So both pictures are reduced first and then laid on each other in many ways:

1. luminance, reduced to 48 pixels on the shorter side (antialiased), and its horizontal and vertical
   differences: blind to brightness, contrast, slow shading and most recoloring;
2. the first picture plain and mirrored, at seven scales from 0.8 to 1.25: a crop is the same picture
   enlarged;
3. the normalized correlation of the two at every shift up to a fifth of the size, over where they overlap, by
   fast Fourier transforms (after Padfield, "Masked object registration in the Fourier domain", IEEE
   Transactions on Image Processing 2012; differences have no mean to speak of, so none is taken off);
4. the highest of all.

The best of many alignments is higher for strangers too: the threshold is the measure's own, see
`benchmarks/similarity.py`. With a mask, only where the mask is true in the second picture counts.
"""

from __future__ import annotations

import torch

SHORT_SIDE = 48  # pixels after reduction
SCALES = (1.0, 0.95, 1 / 0.95, 0.9, 1 / 0.9, 0.8, 1.25)
LARGEST_SHIFT = 0.2  # of the size
LEAST_OVERLAP = 0.5  # of the second picture, less than which says nothing
PAIRS_AT_ONCE = 64  # keeps the memory small
LUMINANCE = (0.299, 0.587, 0.114)


def aligned(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The best correlation of differences over alignments.

    Args:
        first, second: [count, 3, height, width] in [-1, 1].
        mask: bool [height, width], where the second counts; None for everywhere.

    Returns:
        [count], at most 1; 0 for a picture without any structure.
    """
    parts = [
        _best_alignment(first[start : start + PAIRS_AT_ONCE], second[start : start + PAIRS_AT_ONCE], mask)
        for start in range(0, len(first), PAIRS_AT_ONCE)
    ]
    return torch.cat(parts) if parts else first.new_zeros(0)


def _best_alignment(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    height, width = _reduced_size(first.shape[-2:])
    wanted = _differences(_resized(_luminance(second), (height, width)))
    seen = torch.ones_like(wanted[:1, :1])
    if mask is not None:
        seen = (_resized(mask.to(second)[None, None], (height, width)) > 0.99).to(wanted)
    padded = (2 * height, 2 * width)
    there = torch.fft.rfft2(wanted * seen, padded)
    there_energy = torch.fft.rfft2((wanted * seen).square().sum(1, keepdim=True), padded)
    there_seen = torch.fft.rfft2(seen, padded)
    best = wanted.new_full((len(first),), -1.0)
    gray = _luminance(first)
    for picture in (gray, gray.flip(-1)):
        for scale in SCALES:
            here, visible = _scaled(picture, (height, width), scale)
            found = _correlations(here, visible, there, there_energy, there_seen, padded, float(seen.sum()))
            best = torch.maximum(best, found)
    return best


def _correlations(
    here: torch.Tensor,
    visible: torch.Tensor,
    there: torch.Tensor,
    there_energy: torch.Tensor,
    there_seen: torch.Tensor,
    padded: tuple[int, int],
    area: float,
) -> torch.Tensor:
    """The highest normalized correlation over shifts: [count]."""
    own = torch.fft.rfft2(here * visible, padded).conj()
    own_energy = torch.fft.rfft2((here * visible).square().sum(1, keepdim=True), padded).conj()
    own_visible = torch.fft.rfft2(visible, padded).conj()

    def at_shifts(product: torch.Tensor) -> torch.Tensor:
        return _near_shifts(torch.fft.irfft2(product, padded), (padded[0] // 2, padded[1] // 2))

    product = at_shifts((own * there).sum(1, keepdim=True))
    energies = at_shifts(own_energy * there_seen).clamp_min(0) * at_shifts(
        own_visible * there_energy
    ).clamp_min(0)
    overlap = at_shifts(own_visible * there_seen)
    enough = (overlap >= LEAST_OVERLAP * area).expand_as(product)
    # energies of rounding alone would make anything correlate
    floor = 1e-6 * energies.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    values = torch.where(enough & (energies > floor), product / energies.clamp_min(1e-12).sqrt(), 0.0)
    return values.flatten(1).amax(1).clamp(max=1.0)


def _near_shifts(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Of a circular correlation, the shifts that are allowed."""
    rows, columns = (max(1, int(LARGEST_SHIFT * one)) for one in size)
    values = torch.cat([values[..., : rows + 1, :], values[..., -rows:, :]], -2)
    return torch.cat([values[..., : columns + 1], values[..., -columns:]], -1)


def _scaled(picture: torch.Tensor, size: tuple[int, int], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of a picture that is enlarged or reduced about its center, and where it is to be seen."""
    height, width = size
    inner = (max(2, round(height * scale)), max(2, round(width * scale)))
    differences = _differences(_resized(picture, inner))
    if scale >= 1:
        top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
        return differences[..., top : top + height, left : left + width], torch.ones_like(
            differences[:1, :1, :height, :width]
        )
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    margins = (left, width - inner[1] - left, top, height - inner[0] - top)
    visible = torch.nn.functional.pad(torch.ones_like(differences[:1, :1]), margins)
    return torch.nn.functional.pad(differences, margins), visible


def _luminance(pictures: torch.Tensor) -> torch.Tensor:
    weights = pictures.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    return (pictures.float() * weights).sum(1, keepdim=True)


def _resized(pictures: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(
        pictures, size=size, mode="bilinear", align_corners=False, antialias=True
    )


def _differences(gray: torch.Tensor) -> torch.Tensor:
    """[count, 2, height, width]: to the right neighbor and to the lower one; 0 at the far border."""
    across = torch.nn.functional.pad(gray[..., 1:] - gray[..., :-1], (0, 1))
    down = torch.nn.functional.pad(gray[..., 1:, :] - gray[..., :-1, :], (0, 0, 0, 1))
    return torch.cat([across, down], 1)


def _reduced_size(size: torch.Size) -> tuple[int, int]:
    height, width = size
    factor = SHORT_SIDE / min(height, width)
    return max(2, round(height * factor)), max(2, round(width * factor))
