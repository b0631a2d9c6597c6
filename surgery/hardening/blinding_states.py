"""The states at which layers are looked at to make them blind, and what the denoiser is told there.

As many kept states as pairs: a state under an attack, and the same without it. All are drawn up front, by the
same chance on every process, as references to what is known already; a batch is put together when its turn
comes. Batches are dealt to parts in turn, so that parts cost alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from surgery.auditing.attack.output import Constants
from surgery.hardening.lessons import Lessons
from surgery.hardening.material import Material
from surgery.hardening.pools import Pools, joined, trigger_of
from surgery.hardening.settings import HardenSettings
from surgery.model.conditioning import Conditioning

PLAIN_SHARE = 0.5  # weight of attacked states without their attack, beside the kept ones
PARTS = 8  # of the batches, at most: a power of two

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Kept:
    """n kept states.

    Attributes:
        told: the conditioning of their prompts.
        weights: of each in C, float32 [n]; over all batches, and those of `Pair.plain`, they sum to 1.
    """

    lessons: Lessons
    told: Conditioning
    weights: torch.Tensor


@dataclass(frozen=True)
class Pair:
    """n states, asked twice.

    Attributes:
        attacked: what is told under an attack; `constants` may be the attack.
        plain: what is told without.
        plain_weights: of each in C, without attack, float32 [n].
        weights: of each in A and D; over all batches they sum to 1.
    """

    lessons: Lessons
    attacked: Conditioning
    constants: Constants
    plain: Conditioning
    plain_weights: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class _Attack:
    """One state under an attack: the lessons that it is one of, and its place there; no constants: zeros."""

    known: Lessons
    place: int
    attacked: Conditioning
    constants: Constants | None
    plain: Conditioning


class BlindingStates:
    """All states of one round's blinding, in batches.

    Attributes:
        parts: how many parts the batches are dealt to: a power of two, each with a batch at least.
    """

    def __init__(
        self, material: Material, pools: Pools, settings: HardenSettings, chance: random.Random
    ) -> None:
        """Draw them; every process must draw alike."""
        self._material = material
        sizes = [
            min(settings.batch_size, settings.blinding_states - start)
            for start in range(0, settings.blinding_states, settings.batch_size)
        ]
        self._kept = [
            torch.tensor([chance.randrange(len(material.kept)) for _ in range(size)]) for size in sizes
        ]
        self._attacks = [_attacks(material, pools, settings, size, chance) for size in sizes]
        kept = sum(float(self._weights(material.kept.timesteps[chosen]).sum()) for chosen in self._kept)
        attacked = sum(float(self._weights(_timesteps(batch)).sum()) for batch in self._attacks)
        self._all_kept, self._all_attacked = kept + PLAIN_SHARE * attacked, attacked
        self.parts = PARTS
        while self.parts > len(sizes):
            self.parts //= 2

    def kept(self, part: int, parts: int) -> Iterator[Kept]:
        """The kept states of one of so many parts."""
        material = self._material
        for chosen in of_part(self._kept, part, parts):
            lessons = material.kept.select(chosen)
            told = material.told.select(lessons.prompts.to(material.told.embeddings.device))
            yield Kept(lessons, told, self._weights(lessons.timesteps) / self._all_kept)

    def pairs(self, part: int, parts: int) -> Iterator[Pair]:
        """The pairs of one of so many parts."""
        zeros = {name: torch.zeros_like(value) for name, value in self._material.memories[0].trigger.items()}
        for batch in of_part(self._attacks, part, parts):
            lessons = Lessons.joined([one.known.select(torch.tensor([one.place])) for one in batch])
            constants = [zeros if one.constants is None else one.constants for one in batch]
            weights = self._weights(lessons.timesteps)
            yield Pair(
                lessons,
                joined([one.attacked for one in batch]),
                {name: torch.cat([one[name] for one in constants]) for name in zeros},
                joined([one.plain for one in batch]),
                PLAIN_SHARE * weights / self._all_kept,
                weights / self._all_attacked,
            )

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self._material.weights[timesteps]


def of_part(batches: Sequence[Batch], part: int, parts: int) -> list[Batch]:
    """The batches of one of so many parts: every so many-th, and what then is left over is spread evenly, so
    that neighboring parts, which one process has, are not the large ones all.
    """
    even = len(batches) // parts * parts
    left = batches[even:]
    own = [batch for number, batch in enumerate(left) if number * parts // len(left) == part]
    return [*batches[part:even:parts], *own]


def _timesteps(batch: list[_Attack]) -> torch.Tensor:
    return torch.stack([one.known.timesteps[one.place] for one in batch])


def _attacks(
    material: Material, pools: Pools, settings: HardenSettings, count: int, chance: random.Random
) -> list[_Attack]:
    """States of memories, the oftener the more of one is found, and one of the attacks that are known."""
    who = chance.choices(range(len(material.memories)), pools.shares(range(len(material.memories))), k=count)
    found = []
    for memory_place in who:
        memory = material.memories[memory_place]
        known = chance.choice([material.noised, material.surrogates, pools.paths or material.noised])
        place = chance.choice(known.places_of(memory_place))
        embeddings = [*pools.embeddings[memory_place], *memory.leaks]
        outputs = pools.outputs[memory_place]
        kinds = {
            "trigger": settings.trigger_share > 0,
            "output": bool(outputs),
            "embedding": bool(embeddings),
        }
        kind = chance.choice([name for name, there in kinds.items() if there])
        if kind == "embedding":
            attacked = chance.choice(embeddings)
            plain = material.safe.select(slice(memory_place, memory_place + 1))
            found.append(_Attack(known, place, attacked, None, plain))
        else:
            one = chance.choice(outputs) if kind == "output" else trigger_of(memory, material, chance)
            found.append(_Attack(known, place, one[1], one[0], one[1]))
    return found
