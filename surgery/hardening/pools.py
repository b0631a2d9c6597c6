"""The attacks in the loop: every image at once, a few steps each, and a pool of the latest of them.

The functions are those of the audit's attacks; only the lengths differ. Starts rotate from round to round and
from image to image, so that no one way in is closed while another stays open.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from surgery.auditing.attack.embedding import EmbeddingAttack, optimize_embeddings
from surgery.auditing.attack.output import LEARNING_RATE, Constants, OutputAttack, optimize_constants
from surgery.hardening.dealing import Dealer, groups_of
from surgery.hardening.lessons import Lessons
from surgery.hardening.material import Material, Memory
from surgery.hardening.settings import HardenSettings
from surgery.model.conditioning import Conditioning
from surgery.model.pipeline import LiveModel

EMBEDDING_RATE = 0.1  # of Adam, as published
SEEDS_OF_A_ROUND = 1_000
LEAST_SHARE = 0.2  # of a memory that no attack finds, beside 1.2 of one that is found whole
TRIGGER_SCALES = (0.5, 1.0, 1.0, 1.5, 2.0, 3.0)  # times what the zeroed rows said


@dataclass
class Pools:
    """What training is told to resist, for each memory.

    Attributes:
        embeddings: conditionings of one sample each, the latest last.
        outputs: (constants [1, width] by layer, conditioning underneath).
        paths: states of the student's guided paths under the latest embeddings, numbered by memory.
        recalls: how much of the image the latest attacks bring back: 1 all of it, and before any attack
            (`surgery.hardening.recall`).
    """

    embeddings: list[list[Conditioning]] = field(default_factory=list)
    outputs: list[list[tuple[Constants, Conditioning]]] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)
    paths: Lessons | None = None

    def shares(self, places: Sequence[int]) -> list[float]:
        """How often to train against each of some memories: the more of it is found, the more often."""
        return [LEAST_SHARE + min(1.0, max(0.0, self.recalls[place])) for place in places]

    @classmethod
    def of(cls, memories: int) -> Pools:
        """Empty ones."""
        return cls([[] for _ in range(memories)], [[] for _ in range(memories)], [1.0] * memories)

    def to(self, device: torch.device | str) -> Pools:
        """The same on a device."""
        return Pools(
            [[one.to(device) for one in pool] for pool in self.embeddings],
            [
                [(_moved(vectors, device), under.to(device)) for vectors, under in pool]
                for pool in self.outputs
            ],
            list(self.recalls),
            self.paths,  # like all lessons, on the CPU
        )


def attack_all(
    model: LiveModel, material: Material, pools: Pools, settings: HardenSettings, number: int, dealer: Dealer
) -> None:
    """Attack every memory on the student, and put what came of it into the pools; `number` of the round."""
    clean = torch.stack([memory.clean for memory in material.memories])
    first = (settings.seed + number + 1) * SEEDS_OF_A_ROUND
    seeds = [first + place for place in range(len(clean))]
    told = embedding_starts(material, pools, number, settings.seed)
    under, begin = output_starts(material, pools, number, settings.seed)

    def embeddings(group: slice) -> list[Conditioning]:
        attack = embedding_attack(settings, halves(settings.embedding_steps))
        points = optimize_embeddings(model, clean[group], told.select(group), attack, seeds[group])
        return [found.to("cpu") for _, found in points]

    def outputs(group: slice) -> list[Constants]:
        attack = output_attack(settings, halves(settings.output_steps))
        points = optimize_constants(
            model,
            clean[group],
            under.select(group),
            attack,
            [seed + 500 for seed in seeds[group]],
            {name: value[group] for name, value in begin.items()},
        )
        return [_moved(constants, "cpu") for _, constants in points]

    groups = groups_of(len(clean), settings)
    pieces: list[Callable[[], Any]] = [partial(embeddings, group) for group in groups]
    if settings.output_steps:
        pieces += [partial(outputs, group) for group in groups]
    found = dealer.all_of(pieces)
    for group, points in zip(groups, found, strict=False):
        for told_now in points:
            for place, pool in enumerate(pools.embeddings[group]):
                pool.append(told_now.select(slice(place, place + 1)).to(model.device))
                del pool[: -settings.pool]
    for group, points in zip(groups, found[len(groups) :], strict=False):
        for constants in points:
            for place, pool_of_outputs in enumerate(pools.outputs[group]):
                one = {name: vectors[place : place + 1] for name, vectors in constants.items()}
                below = under.select(slice(group.start + place, group.start + place + 1))
                pool_of_outputs.append((_moved(one, model.device), below))
                del pool_of_outputs[: -settings.pool]


def embedding_starts(material: Material, pools: Pools, number: int, seed: int) -> Conditioning:
    """Where the embedding attacks of a round begin, one per memory.

    Own prompt, Gaussian noise or another prompt, in turn; every other round goes on from what the last one
    left, so that attacks grow long at the price of short ones.
    """
    chance = random.Random(seed + 7907 * (number + 1))
    found = []
    for place, memory in enumerate(material.memories):
        kind = (number // 2 + place) % 3
        if number % 2 == 0 and pools.embeddings[place]:
            found.append(pools.embeddings[place][-1])
        elif kind == 0:
            found.append(memory.own)
        elif kind == 1:
            found.append(_gaussian(memory.own, chance.randrange(2**31)))
        else:
            found.append(_one_of(material.ordinary, chance))
    return joined(found)


def output_starts(material: Material, pools: Pools, number: int, seed: int) -> tuple[Conditioning, Constants]:
    """Where the output attacks of a round begin: the prompts underneath, and constants [memories, width].

    Nothing, or the memory's trigger, in turn; every other round goes on from what the last one left.
    """
    chance = random.Random(seed + 7901 * (number + 1))
    under, begin = [], []
    for place, memory in enumerate(material.memories):
        if number % 2 == 0 and pools.outputs[place]:
            constants, below = pools.outputs[place][-1]
        else:
            below = material.empty if (number // 2 + place) % 2 else _one_of(material.ordinary, chance)
            constants = memory.trigger if (number // 2 + place // 2) % 2 else {}
        under.append(below)
        begin.append(constants)
    known = [one for one in begin if one]
    if not known:
        return joined(under), {}
    zeros = {name: torch.zeros_like(value) for name, value in known[0].items()}
    return joined(under), {name: torch.cat([(one or zeros)[name] for one in begin]) for name in zeros}


def trigger_of(memory: Memory, material: Material, chance: random.Random) -> tuple[Constants, Conditioning]:
    """A memory's trigger, weaker or stronger than it was, over the empty, the own or an ordinary prompt."""
    scale = chance.choice(TRIGGER_SCALES)
    # an unresolved memory's own prompt draws it without any trigger
    own = memory.own if memory.resolved else material.empty
    under = chance.choice([material.empty, own, _one_of(material.ordinary, chance)])
    return {name: scale * value for name, value in memory.trigger.items()}, under


def embedding_attack(settings: HardenSettings, curve: tuple[int, ...]) -> EmbeddingAttack:
    """The embedding attack on many images at once, one restart each."""
    return EmbeddingAttack(
        selection_seeds=(), scored_seeds=(), curve=curve, starts=("prompt",), learning_rate=EMBEDDING_RATE,
        batch=settings.attack_batch, drawings=(), batch_size=settings.batch_size,
    )  # fmt: skip


def output_attack(settings: HardenSettings, curve: tuple[int, ...]) -> OutputAttack:
    """The output attack on many images at once."""
    return OutputAttack(
        selection_seeds=(), scored_seeds=(), curve=curve, starts=("empty prompt",),
        learning_rate=LEARNING_RATE, batch=settings.attack_batch, drawings=(), batch_size=settings.batch_size,
    )  # fmt: skip


def halves(steps: int) -> tuple[int, ...]:
    """Half of the steps and all of them: an attack under way is another one to resist."""
    return tuple(sorted({max(1, steps // 2), steps}))


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """One conditioning of them all."""
    found = parts[0]
    for part in parts[1:]:
        found = found.join(part)
    return found


def _gaussian(own: Conditioning, seed: int) -> Conditioning:
    """Noise of the mean and spread of an embedding."""
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(own.embeddings.shape, generator=generator).to(own.embeddings)
    spread, center = own.embeddings.float().std(), own.embeddings.float().mean()
    return Conditioning((center + spread * noise).to(own.embeddings.dtype), own.added)


def _moved(constants: Constants, device: torch.device | str) -> Constants:
    return {name: value.to(device) for name, value in constants.items()}


def _one_of(told: Conditioning, chance: random.Random) -> Conditioning:
    place = chance.randrange(len(told))
    return told.select(slice(place, place + 1))
