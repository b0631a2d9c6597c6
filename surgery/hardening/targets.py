"""The pictures that hardening needs beside the user's: stand-ins for memories, and never-seen controls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from surgery.auditing.measures.replication import generate, similarities_to
from surgery.hardening.dealing import Job
from surgery.hardening.settings import HardenSettings
from surgery.measures.pictures import reconstruct
from surgery.measures.similarity import Similarity
from surgery.measures.subjects import Subject
from surgery.model.pipeline import LiveModel

STAND_IN_SEEDS = 4
TARGET_SEEDS = 3_300_000


def drawn(
    model: LiveModel, captions: Sequence[str], seeds: Sequence[int], settings: HardenSettings
) -> Job[torch.Tensor, torch.Tensor]:
    """One picture of each caption at its seed, a piece each: uint8 [captions, 3, height, width]."""

    def picture(caption: str, seed: int) -> torch.Tensor:
        return generate(model, [caption], [seed], settings.drawing(), quiet=True)[0]

    return Job(
        [partial(picture, caption, seed) for caption, seed in zip(captions, seeds, strict=True)], torch.cat
    )


def targets_of(
    source: LiveModel, subjects: Sequence[Subject], similarity: Similarity, settings: HardenSettings
) -> Job[tuple[torch.Tensor, torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Each memory's picture, and what drawn pictures are compared with: uint8 [3, height, width] both.

    SOURCE's own replica stands in for an image that was not given: of a few seeds, the one most like the
    rest.
    """

    def target(place: int, subject: Subject) -> tuple[torch.Tensor, torch.Tensor]:
        if subject.image is not None:
            return subject.image, reconstruct(source, subject.image[None])[0]
        first = TARGET_SEEDS + settings.seed + 100 * place
        seeds = [first + number for number in range(STAND_IN_SEEDS)]
        pictures = generate(source, [subject.prompt], seeds, settings.drawing(), quiet=True)[0]
        alike = [float(similarities_to(pictures, one, similarity, subject.mask).sum()) for one in pictures]
        best = pictures[alike.index(max(alike))].clone()  # else all of them would be sent
        return best, best

    return Job([partial(target, place, subject) for place, subject in enumerate(subjects)], list)
