"""The memorization score: 3-scale MS-SSIM between noise differences, batched over pairs.

MS-SSIM after Wang, Simoncelli and Bovik (2003), with the constants of the NeMo paper (arXiv 2406.02366):
Gaussian window, K1 = 0.01, K2 = 0.03, three scales with exponents 0.33 each, data range from the pictures at
each scale, negative terms clipped to 0. For one pair (a, b):

1. At each scale, local means, variances and the covariance under the window, borders reflected.
2. The first two scales give their mean contrast-structure term, the third its mean full SSIM; between scales
   both pictures are averaged 2 x 2.
3. The score is the product of the three terms, each to the power 0.33.

The data range is that of the pair at hand, or, with `one_range`, that of all pairs scored together: so the
published scores were computed (torchmetrics takes it over the batch). Scores near 0.1 differ by up to 0.008.
A wider range brings a score nearer to 1, so that some of the pairs alone never score higher than among all.

The published window has 11 taps (sigma 1.5), which does not fit the third scale of latents below 40 x 40:
there the window shrinks with the latent (16 x 16: 5 taps, sigma 0.5), see `window_of`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from surgery.errors import UsageError

BETAS = (0.33, 0.33, 0.33)
K1, K2 = 0.01, 0.03
SIGMA_OF_RADIUS = {5: 1.5, 4: 1.2, 3: 0.9, 2: 0.5, 1: 0.3}  # radius = int(3.5 * sigma + 0.5), as is usual
PUBLISHED_TAPS = 11
SMALLEST_SIDE = 8
SMALLEST_SPAN = 1e-12  # two constant pictures: equal ones then score 1 instead of dividing by zero
PAIRS_AT_ONCE = 256


@dataclass(frozen=True)
class Window:
    """A Gaussian window: `taps` wide, standard deviation `sigma` (in latent pixels)."""

    taps: int
    sigma: float


def window_of(height: int, width: int) -> Window:
    """The largest window, up to the published 11 taps, that fits.

    Its radius is at most half the side at the third scale.

    Raises:
        UsageError: the latent is smaller than 8 x 8, too small for three scales.
    """
    side = min(height, width)
    if side < SMALLEST_SIDE:
        raise UsageError(
            f"latents of {height} x {width}", "are too small for three scales", "8 x 8 is the least"
        )
    radius = min(PUBLISHED_TAPS // 2, side // 4 // 2)
    return Window(2 * radius + 1, SIGMA_OF_RADIUS[radius])


def ms_ssim(
    first: torch.Tensor, second: torch.Tensor, window: Window | None = None, one_range: bool = False
) -> torch.Tensor:
    """MS-SSIM of n pairs.

    Args:
        first, second: noise differences, float32 [n, channels, height, width].
        window: default: `window_of` the latent size.
        one_range: one data range for all n pairs, as published, instead of one for each.

    Returns:
        float32 [n]; 1 for equal pictures, near 0 for unrelated ones.
    """
    window = window or window_of(first.shape[-2], first.shape[-1])
    kernel = _kernel(window, first.shape[1], first.device)
    score = torch.ones(first.shape[0], device=first.device)
    for scale, beta in enumerate(BETAS):
        similarity, contrast = _terms(first, second, kernel, window.taps // 2, one_range)
        term = similarity if scale == len(BETAS) - 1 else contrast
        score = score * term.clamp_min(0.0) ** beta
        first, second = functional.avg_pool2d(first, 2), functional.avg_pool2d(second, 2)
    return score


def pairwise_scores_of_many(differences: torch.Tensor, window: Window | None = None) -> torch.Tensor:
    """Scores of every pair of seeds of n prompts: [n, seeds, channels, h, w] -> [n, seeds, seeds]."""
    prompts, seeds = differences.shape[:2]
    rows, columns = torch.triu_indices(seeds, seeds, offset=1).to(differences.device)
    first, second = (differences[:, chosen].flatten(0, 1) for chosen in (rows, columns))
    parts = [
        ms_ssim(some, others, window)
        for some, others in zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True)
    ]
    scores = torch.eye(seeds, device=differences.device).repeat(prompts, 1, 1)
    if parts:
        found = torch.cat(parts).unflatten(0, (prompts, -1))
        scores[:, rows, columns] = scores[:, columns, rows] = found
    return scores.cpu()


def pairwise_scores(
    differences: torch.Tensor, window: Window | None = None, one_range: bool = False
) -> torch.Tensor:
    """The same for one prompt: [seeds, channels, h, w] -> [seeds, seeds], 1 on the diagonal.

    `one_range` takes one data range for all pairs of the prompt.
    """
    if not one_range or len(differences) < 2:
        return pairwise_scores_of_many(differences.unsqueeze(0), window)[0]
    rows, columns = torch.triu_indices(len(differences), len(differences), offset=1).to(differences.device)
    scores = torch.eye(len(differences), device=differences.device)
    found = ms_ssim(differences[rows], differences[columns], window, one_range=True)
    scores[rows, columns] = scores[columns, rows] = found
    return scores.cpu()


def _kernel(window: Window, channels: int, device: torch.device) -> torch.Tensor:
    positions = torch.arange(window.taps, dtype=torch.float32, device=device) - window.taps // 2
    line = torch.exp(-((positions / window.sigma) ** 2) / 2)
    line = line / line.sum()
    return torch.outer(line, line).expand(channels, 1, window.taps, window.taps).contiguous()


def _terms(
    first: torch.Tensor, second: torch.Tensor, kernel: torch.Tensor, radius: int, one_range: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean SSIM and mean contrast-structure term of each pair, both [n]."""
    # Anew at each scale, as published.
    flat = [picture.flatten(0 if one_range else 1) for picture in (first, second)]
    spans = [picture.amax(-1) - picture.amin(-1) for picture in flat]
    span = torch.maximum(*spans).clamp_min(SMALLEST_SPAN).view(-1, 1, 1, 1)
    stable_mean, stable_variance = (K1 * span) ** 2, (K2 * span) ** 2
    first, second = (functional.pad(picture, (radius,) * 4, mode="reflect") for picture in (first, second))
    stacked = torch.cat([first, second, first * first, second * second, first * second])
    filtered = functional.conv2d(stacked, kernel, groups=kernel.shape[0]).chunk(5)
    mean_first, mean_second = filtered[0], filtered[1]
    squares, product = (mean_first**2, mean_second**2), mean_first * mean_second
    variances = (filtered[2] - squares[0]).clamp_min(0.0) + (filtered[3] - squares[1]).clamp_min(0.0)
    contrast = (2 * (filtered[4] - product) + stable_variance) / (variances + stable_variance)
    similarity = contrast * (2 * product + stable_mean) / (squares[0] + squares[1] + stable_mean)
    # The contrast term leaves the border out, the full SSIM keeps it: as published.
    inner = contrast[..., radius:-radius, radius:-radius]
    return similarity.flatten(1).mean(1), inner.flatten(1).mean(1)
