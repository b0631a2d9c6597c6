"""Surrogates: what each memory's prompt should draw instead; and which prompts draw the memory.

The surrogate of a prompt is what the teacher (SOURCE with the rows zeroed) draws for it. Where that is the
memory still, the prompt is unresolved, and a prompt that does not draw the memory stands in for it: one of
its neighbors, which are made by exchanging a word. Memories that come from duplication alone hang on several
words: exchanging one of them often draws the same picture. So no neighbor is believed before it was drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from surgery.auditing.measures.replication import similarities_to
from surgery.hardening.dealing import Dealer, Job
from surgery.hardening.lessons import Lessons, paths_of
from surgery.hardening.settings import HardenSettings
from surgery.measures.pictures import decode_latents
from surgery.measures.similarity import Similarity
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.pipeline import LiveModel

SURROGATE_SEEDS = 3_100_000
TRIES = 4  # prompts that may stand in for an unresolved one; the last is an ordinary prompt, taken as it is


@dataclass(frozen=True)
class Target:
    """A memory's picture, as drawn pictures are compared with it.

    Attributes:
        compared: uint8 [3, height, width].
        mask: where; None for everywhere.
    """

    compared: torch.Tensor
    mask: torch.Tensor | None
    similarity: Similarity

    def is_drawn(self, model: LiveModel, latents: torch.Tensor) -> torch.Tensor:
        """Which scaled clean latents [n, ...] are replicas of it: bool [n]."""
        if not len(latents):
            return torch.zeros(0, dtype=torch.bool)
        drawn = decode_latents(model, latents)
        return similarities_to(drawn, self.compared, self.similarity, self.mask) >= self.similarity.threshold


def neighbors_of(prompt: str, ordinary: Sequence[str], count: int, chance: random.Random) -> list[str]:
    """Captions of a prompt's words with one exchanged for a word of an ordinary prompt: another meaning."""
    words = prompt.split()
    strange = sorted({word for caption in ordinary for word in caption.split()} - set(words)) or [""]
    found = []
    for _ in range(count):
        exchanged = list(words)
        exchanged[chance.randrange(len(words))] = chance.choice(strange)
        found.append(" ".join(exchanged).strip())
    return found


def safe_candidates(
    near: Sequence[Sequence[str]], leaking: Sequence[Sequence[str]], ordinary: Sequence[str]
) -> list[list[str]]:
    """For each memory, `TRIES` prompts that may stand in for its own: neighbors, those that were seen to draw
    it last, and an ordinary prompt.
    """
    found = []
    for place, (captions, bad) in enumerate(zip(near, leaking, strict=True)):
        trusted = sorted(captions, key=lambda caption: caption in bad)[: TRIES - 1]
        last = ordinary[place % len(ordinary)] if ordinary else ""
        found.append([*trusted, *[last] * (TRIES - len(trusted))])
    return found


def surrogate_paths(
    teacher: LiveModel, told: Conditioning, settings: HardenSettings
) -> Job[tuple[Lessons, torch.Tensor], tuple[Lessons, torch.Tensor]]:
    """What prompts draw, `surrogates` paths each, and where these end."""
    first, count = SURROGATE_SEEDS + settings.seed, settings.surrogates * len(told)
    seeds = [first + number for number in range(count)]
    return paths_of(teacher, told.repeat(settings.surrogates), seeds, settings.positions, settings.batch_size)


def choose_surrogates(
    teacher: LiveModel,
    own: Conditioning,
    drawn: tuple[Lessons, torch.Tensor],
    candidates: Sequence[Sequence[str]],
    targets: Sequence[Target],
    settings: HardenSettings,
    dealer: Dealer,
) -> tuple[Lessons, list[bool], Conditioning]:
    """What every memory's prompt should draw, as paths; whether the teacher draws that of the prompt itself;
    and the conditioning of the prompts that it does draw them of.

    Args:
        own: conditioning of the memories' prompts.
        drawn: what comes of `surrogate_paths` for these.
        candidates: as `safe_candidates` gives them, for memories whose prompts the rows do not resolve.
    """
    count = settings.surrogates
    known: dict[int, Lessons] = {}
    safe = own

    def keep(
        found: tuple[Lessons, torch.Tensor], places: Sequence[int], at_any_rate: bool = False
    ) -> list[int]:
        """Of the places, those whose memory was drawn are given back, the others are known."""
        lessons, ends = found
        lessons = lessons.renumbered(torch.tensor(places).repeat_interleave(count))
        seen = dealer.all_of(
            [
                partial(targets[place].is_drawn, teacher, latents)
                for place, latents in zip(places, ends.split(count), strict=True)
            ]
        )
        again = []
        for place, replicas in zip(places, seen, strict=True):
            if bool(replicas.any()) and not at_any_rate:
                again.append(place)
            else:
                known[place] = lessons.select(torch.tensor(lessons.places_of(place)))
        return again

    unresolved = keep(drawn, range(len(own)))
    still = unresolved
    for trial in range(TRIES):
        if not still:
            break
        told = encode_prompts(teacher, [candidates[place][trial] for place in still])
        (found,) = dealer.made_of(surrogate_paths(teacher, told, settings))
        left = keep(found, still, at_any_rate=trial == TRIES - 1)
        order = list(range(len(own)))
        for number, place in enumerate(still):
            if place not in left:
                order[place] = len(own) + number
        safe, still = safe.join(told).select(torch.tensor(order)), left
    lessons = Lessons.joined([known[place] for place in range(len(own))])
    return lessons, [place not in unresolved for place in range(len(own))], safe


def leaks_of(
    teacher: LiveModel, own: Conditioning, place: int, resolved: bool, leaking: Sequence[str]
) -> tuple[Conditioning, ...]:
    """The prompts that draw a memory from the teacher, one conditioning each."""
    found = [] if resolved else [own.select(slice(place, place + 1))]
    if leaking:
        told = encode_prompts(teacher, list(leaking))
        found += [told.select(slice(number, number + 1)) for number in range(len(told))]
    return tuple(found)
