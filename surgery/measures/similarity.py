"""How alike are two pictures? Measures that need no weights, behind one small interface.

A measure maps two batches of pictures, [count, 3, height, width] in [-1, 1], to [count] similarities, higher
for more alike, and optionally looks only where a mask [height, width] is true (template memories vary in one
region). Which measure separates replicas from the rest depends on the model: a seed may shift brightness and
contrast of an otherwise exact replica (the noise at the first timestep is not all noise), so that a plain
distance confuses replicas with strangers. `benchmarks/testbed.py` prints the AUROC of each on the testbed;
all separate there, `edges` by the widest gap, so it is the default for such small pictures. At real sizes a
copy may be shifted, cropped or mirrored: `aligned` (`benchmarks/similarity.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from surgery.errors import UsageError
from surgery.measures.aligned import aligned

Measure = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
TILES = 4  # tiles per side, after Carlini et al.


def _weights(pictures: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """[1, 1, height, width] of ones, or the mask as such."""
    if mask is None:
        return torch.ones(1, 1, *pictures.shape[-2:], dtype=pictures.dtype, device=pictures.device)
    return mask.to(pictures)[None, None]


def _correlation(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted Pearson correlation of [count, ...] arrays, one number per pair; 0 for a constant one."""
    axes = tuple(range(1, first.dim()))
    weights = weights.expand_as(first)
    total = weights.sum(axes, keepdim=True)
    first = first - (weights * first).sum(axes, keepdim=True) / total
    second = second - (weights * second).sum(axes, keepdim=True) / total
    covariance = (weights * first * second).sum(axes)
    scale = (weights * first.square()).sum(axes) * (weights * second.square()).sum(axes)
    return covariance / scale.sqrt().clamp_min(1e-12)


def l2(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """1 - root mean square difference, pictures scaled to [0, 1]."""
    weights = _weights(first, mask).expand_as(first)
    squared = (weights * ((first - second) / 2).square()).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    return 1 - squared.sqrt()


def tiled_l2(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """1 - the largest root mean square difference over 16 tiles, pictures scaled to [0, 1].

    After Carlini et al., "Extracting Training Data from Diffusion Models" (USENIX Security 2023), section 4:
    one differing tile suffices to tell two pictures apart. Tiles that the mask covers entirely do not count.
    """
    height, width = first.shape[-2] // TILES, first.shape[-1] // TILES
    weights = _weights(first, mask).expand_as(first)
    squared = weights * ((first - second) / 2).square()

    def per_tile(values: torch.Tensor) -> torch.Tensor:
        cut = values[..., : height * TILES, : width * TILES]
        return cut.reshape(len(values), -1, TILES, height, TILES, width).sum((1, 3, 5))

    share = per_tile(weights)
    distances = per_tile(squared) / share.clamp_min(1)
    return 1 - torch.where(share > 0, distances, 0).amax((1, 2)).sqrt()


def pixels(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Correlation of the pixel values over all channels: blind to brightness and contrast."""
    return _correlation(first, second, _weights(first, mask))


def edges(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Correlation of the horizontal and vertical differences: blind to brightness, contrast, slow shading."""
    weights = _weights(first, mask)

    def differences(pictures: torch.Tensor) -> torch.Tensor:
        across = torch.nn.functional.pad(pictures[..., 1:] - pictures[..., :-1], (0, 1))
        down = torch.nn.functional.pad(pictures[..., 1:, :] - pictures[..., :-1, :], (0, 0, 0, 1))
        return torch.cat([across, down], dim=1)

    if mask is not None:
        # A difference counts where both of its pixels do: else the border of the window itself would count.
        shrunk = weights.clone()
        shrunk[..., :, :-1] *= weights[..., :, 1:]
        shrunk[..., :-1, :] *= weights[..., 1:, :]
        weights = shrunk
    return _correlation(differences(first), differences(second), weights)


@dataclass(frozen=True)
class Similarity:
    """A named measure with the threshold above which a picture counts as a replica.

    Attributes:
        threshold: on the measure's own scale.
        source: where the measure and the threshold come from.
    """

    name: str
    measure: Measure
    threshold: float
    source: str

    def __call__(
        self, first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.measure(first, second, mask)


# Every measure that needs no file: a new one is a function above and a line here. (SSCD, which needs one, is
# made by `surgery.auditing.measures.sscd`.)
SIMILARITIES = {
    similarity.name: similarity
    for similarity in (
        Similarity("edges", edges, 0.5, "ours; widest gap on the testbed (benchmarks/testbed.py)"),
        Similarity(
            "aligned", aligned, 0.6, "ours; tolerates shifts, crops, mirroring (benchmarks/similarity.py)"
        ),
        Similarity("pixels", pixels, 0.75, "ours; threshold from the testbed (benchmarks/testbed.py)"),
        Similarity("tiled-l2", tiled_l2, 0.85, "Carlini et al. 2023, section 4 (threshold 0.15)"),
        Similarity("l2", l2, 0.85, "plain root mean square difference, for comparison"),
    )
}
DEFAULT = "edges"
AUTO = "auto"  # the measure that fits the size
REAL_SIZE = 128  # pixels on the shorter side: from here up, a shift by a pixel or two is no other picture


def default_name(height: int, width: int) -> str:
    """The measure for pictures of this size: `edges` for the testbed's, `aligned` from 128 pixels up."""
    return "aligned" if min(height, width) >= REAL_SIZE else DEFAULT


def named_similarity(name: str) -> Similarity:
    """The measure of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in SIMILARITIES:
        raise UsageError(name, "is not a similarity measure", f"choose one of {', '.join(SIMILARITIES)}")
    return SIMILARITIES[name]
