"""The pictures that hardening needs beside the user's: stand-ins for memories, and never-seen controls."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surgery.auditing.measures.replication import generate, similarities_to
from surgery.hardening.settings import HardenSettings
from surgery.measures.pictures import reconstruct
from surgery.measures.similarity import Similarity
from surgery.measures.subjects import Subject
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work

STAND_IN_SEEDS = 4
TARGET_SEEDS = 3_300_000


def drawn(
    model: LiveModel, captions: Sequence[str], seeds: Sequence[int], settings: HardenSettings, work: Work
) -> torch.Tensor:
    """One picture of each caption at its seed: uint8 [captions, 3, height, width]."""
    parts = [
        generate(model, [caption], [seed], settings.drawing(), work, quiet=True)[0]
        for caption, seed in zip(captions, seeds, strict=True)
    ]
    return torch.cat(parts)


def target_of(
    source: LiveModel,
    subject: Subject,
    similarity: Similarity,
    settings: HardenSettings,
    work: Work,
    place: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A memory's picture, and what drawn pictures are compared with: uint8 [3, height, width] both.

    SOURCE's own replica stands in for an image that was not given: of a few seeds, the one most like the
    rest.
    """
    if subject.image is not None:
        return subject.image, reconstruct(source, subject.image[None])[0]
    first = TARGET_SEEDS + settings.seed + 100 * place
    seeds = [first + number for number in range(STAND_IN_SEEDS)]
    pictures = generate(source, [subject.prompt], seeds, settings.drawing(), work, quiet=True)[0]
    alike = [float(similarities_to(pictures, one, similarity, subject.mask).sum()) for one in pictures]
    best = pictures[alike.index(max(alike))]
    return best, best
