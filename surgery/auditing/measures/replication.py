"""Does a model still draw the training image?

1. `generate` draws every prompt at every seed (the same seed gives the same latent to every model).
2. `measure` compares the pictures of one prompt with its target: one similarity per seed; a seed at or above
   the measure's threshold is a replica. The share of such seeds is the replication rate.
3. `seed_similarity` compares the seeds of one prompt with each other: a memorized prompt draws one picture.
   (The NeMo paper, arXiv 2406.02366, calls this number diversity: 0.99 for verbatim memories, 0.17 else.)
4. `equal_seed_similarity` compares two models' pictures seed by seed.

A template memory is compared where its mask is true only, and each seed counts with the best of its targets
where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from surgery.auditing.budget import counted
from surgery.auditing.drawing import Drawing
from surgery.measures.pictures import from_images, to_unit_range
from surgery.measures.similarity import Similarity
from surgery.model.denoising import generate_images
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work


@dataclass(frozen=True)
class Replication:
    """How alike the pictures of one prompt are to its target.

    Attributes:
        similarities: one per seed, on the measure's scale, in the order of the seeds.
        threshold: at or above it a picture counts as a replica.
    """

    similarities: tuple[float, ...]
    threshold: float

    @property
    def share(self) -> float:
        """Share of seeds that replicate."""
        return sum(value >= self.threshold for value in self.similarities) / len(self.similarities)

    @property
    def median(self) -> float:
        """The median seed's similarity."""
        return float(torch.tensor(self.similarities).quantile(0.5))

    @property
    def worst(self) -> float:
        """The similarity of the seed that comes closest to the target: the publisher's worst case."""
        return max(self.similarities)

    def as_json(self) -> dict[str, Any]:
        """share, median, worst, threshold and the similarity of every seed."""
        return {
            "share": round(self.share, 4),
            "median": round(self.median, 4),
            "worst": round(self.worst, 4),
            "threshold": self.threshold,
            "similarities": [round(value, 4) for value in self.similarities],
        }


def generate(
    model: LiveModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    drawing: Drawing | None = None,
    work: Work | None = None,
    quiet: bool = False,
    label: str = "draw",
) -> torch.Tensor:
    """Draw every prompt at every seed.

    Args:
        drawing: steps, guidance and batch size; default 50, 7.5 and 16.
        work: where sample-forwards are counted, if wanted.
        quiet: no progress bar (there is none outside a terminal either).
        label: the progress bar's.

    Returns:
        uint8 [prompts, seeds, 3, height, width], on the CPU.
    """
    drawing = drawing or Drawing()
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
    work = work if work is not None else Work()
    parts = []
    with (
        counted(model, work),
        tqdm(total=len(pairs), desc=label, unit="picture", disable=quiet or None) as bar,
    ):
        for start in range(0, len(pairs), drawing.batch_size):
            batch = pairs[start : start + drawing.batch_size]
            images = generate_images(
                model,
                [prompt for prompt, _ in batch],
                [seed for _, seed in batch],
                inference_steps=drawing.steps,
                guidance=drawing.guidance,
                batch_size=drawing.batch_size,
            )
            parts.append(from_images(images))
            bar.update(len(batch))
    pictures = torch.cat(parts)
    return pictures.view(len(prompts), len(seeds), *pictures.shape[1:])


@torch.no_grad()
def similarities_to(
    pictures: torch.Tensor, targets: torch.Tensor, similarity: Similarity, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Similarity of every picture to its nearest target.

    Args:
        pictures: [count, 3, height, width], uint8 or float in [-1, 1].
        targets: [3, height, width], or [targets, 3, height, width] for several, of the same height and width.
        mask: bool [height, width], true where to compare; None for everywhere.

    Returns:
        float32 [count].
    """
    pictures = to_unit_range(pictures)
    targets = to_unit_range(targets)
    targets = targets[None] if targets.dim() == 3 else targets
    values = [similarity(pictures, target.expand_as(pictures), mask) for target in targets]
    return torch.stack(values).amax(0).float()


def measure(
    pictures: torch.Tensor, targets: torch.Tensor, similarity: Similarity, mask: torch.Tensor | None = None
) -> Replication:
    """Replication of one prompt; arguments as in `similarities_to`, pictures in the order of the seeds."""
    values = similarities_to(pictures, targets, similarity, mask)
    return Replication(tuple(values.tolist()), similarity.threshold)


def seed_similarity(
    pictures: torch.Tensor, similarity: Similarity, mask: torch.Tensor | None = None
) -> float:
    """Median similarity over the pairs of seeds of one prompt: high where every seed draws one picture.

    Args:
        pictures: [seeds, 3, height, width], at least two seeds.
    """
    pictures = to_unit_range(pictures)
    first, second = torch.triu_indices(len(pictures), len(pictures), offset=1)
    return float(similarity(pictures[first], pictures[second], mask).float().quantile(0.5))


def equal_seed_similarity(
    before: torch.Tensor, after: torch.Tensor, similarity: Similarity, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Similarity of two models' pictures seed by seed: [seeds, 3, height, width] twice -> float32 [seeds]."""
    return similarity(to_unit_range(before), to_unit_range(after), mask).float()
