"""What must stay as it is: lessons of ordinary prompts, neighbors, the empty prompt, and the user's pictures.

Neighbors that draw their memory from the teacher are no such thing: of those there is no lesson.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from surgery.hardening.dealing import Dealer, Job
from surgery.hardening.lessons import Lessons, noised_lessons
from surgery.hardening.settings import HardenSettings
from surgery.hardening.surrogates import Target
from surgery.measures.pictures import encode_pictures
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.pipeline import LiveModel

EMPTY_SHARE = 0.1  # of kept prompts are empty: guidance leans on it
DATA_SEEDS = 3_500_000


def kept_prompts(ordinary: Sequence[str], neighbors: Sequence[Sequence[str]]) -> list[str]:
    """The prompts whose paths are drawn: ordinary ones, neighbors of each memory, and the empty prompt."""
    prompts = [*ordinary, *(caption for captions in neighbors for caption in captions)]
    return prompts + [""] * max(1, round(EMPTY_SHARE * len(prompts)))


def without_leaks(
    teacher: LiveModel,
    drawn: tuple[Lessons, torch.Tensor],
    first: int,
    neighbors: Sequence[Sequence[str]],
    targets: Sequence[Target],
    dealer: Dealer,
) -> tuple[Lessons, list[list[str]]]:
    """The lessons of prompts that draw no memory, and each memory's neighbors that do.

    Args:
        drawn: the lessons of the paths of `kept_prompts`, numbered in their order, and where the paths end.
        first: the number of the first neighbor.
        targets: one per memory.
    """
    lessons, ends = drawn
    places = []
    for captions in neighbors:
        places.append(slice(first, first + len(captions)))
        first += len(captions)
    found = dealer.all_of(
        [partial(target.is_drawn, teacher, ends[some]) for some, target in zip(places, targets, strict=True)]
    )
    good = torch.ones(len(ends), dtype=torch.bool)
    for some, bad in zip(places, found, strict=True):
        good[some] = ~bad
    leaking = [
        [caption for caption, one in zip(captions, bad.tolist(), strict=True) if one]
        for captions, bad in zip(neighbors, found, strict=True)
    ]
    return lessons.select(good[lessons.prompts].nonzero().flatten()), leaking


def lessons_of_data(
    teacher: LiveModel, data: Sequence[tuple[str, torch.Tensor]], settings: HardenSettings
) -> tuple[Conditioning, Job[torch.Tensor, Lessons]]:
    """The conditioning of the user's captions, and lessons of noised copies of the pictures, told these.

    Args:
        data: captions, and pictures uint8 [3, height, width]; one at least.
    """
    told = encode_prompts(teacher, [caption for caption, _ in data])
    clean = encode_pictures(teacher, torch.stack([picture for _, picture in data])).float().cpu()
    return told, noised_lessons(
        teacher, clean, told, settings.positions, DATA_SEEDS + settings.seed, settings.batch_size
    )
