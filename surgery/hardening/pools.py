"""The attacks in the loop: every image at once, a few steps each, and a pool of the latest of them.

The functions are those of the audit's attacks; only the lengths differ. Starts rotate from round to round and
from image to image, so that no one way in is closed while another stays open.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.auditing.attack.embedding import EmbeddingAttack, optimize_embeddings
from surgery.auditing.attack.output import LEARNING_RATE, Constants, OutputAttack, optimize_constants
from surgery.hardening.lessons import Lessons, ways_to
from surgery.hardening.material import Material, Memory
from surgery.hardening.settings import HardenSettings
from surgery.model.conditioning import Conditioning
from surgery.model.injection import injected
from surgery.model.pipeline import LiveModel

EMBEDDING_RATE = 0.1  # of Adam, as published
SEEDS_OF_A_ROUND = 1_000
LEAST_SHARE = 0.2  # of a memory that no attack finds, beside 1.2 of one that is found whole
RECALL_FROM = 0.4  # of all timesteps: recall is measured at the noisier ones, where pictures are decided
TRIGGER_SCALES = (0.5, 1.0, 1.0, 1.5, 2.0, 3.0)  # times what the zeroed rows said


@dataclass
class Pools:
    """What training is told to resist, for each memory.

    Attributes:
        embeddings: conditionings of one sample each, the latest last.
        outputs: (constants [1, width] by layer, conditioning underneath).
        paths: states of the student's guided paths under the latest embeddings, numbered by memory.
        recalls: how much of the image the latest attacks bring back: 1 all of it, and before any attack.
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


def attack_all(
    model: LiveModel, material: Material, pools: Pools, settings: HardenSettings, number: int
) -> None:
    """Attack every memory on the student, and put what came of it into the pools; `number` of the round."""
    clean = torch.stack([memory.clean for memory in material.memories])
    first = (settings.seed + number + 1) * SEEDS_OF_A_ROUND
    for _, found in optimize_embeddings(
        model,
        clean,
        embedding_starts(material, pools, number, settings.seed),
        embedding_attack(settings, halves(settings.embedding_steps)),
        [first + place for place in range(len(clean))],
    ):
        for place, pool in enumerate(pools.embeddings):
            pool.append(found.select(slice(place, place + 1)))
            del pool[: -settings.pool]
    if not settings.output_steps:
        pools.recalls = recalled(model, material, pools, settings.batch_size)
        return
    under, begin = output_starts(material, pools, number, settings.seed)
    for _, constants in optimize_constants(
        model,
        clean,
        under,
        output_attack(settings, halves(settings.output_steps)),
        [first + 500 + place for place in range(len(clean))],
        begin,
    ):
        for place, outputs in enumerate(pools.outputs):
            one = {name: vectors[place : place + 1] for name, vectors in constants.items()}
            outputs.append((one, under.select(slice(place, place + 1))))
            del outputs[: -settings.pool]
    pools.recalls = recalled(model, material, pools, settings.batch_size)


@torch.no_grad()
def recalled(model: LiveModel, material: Material, pools: Pools, batch_size: int) -> list[float]:
    """How much of each image the latest attacks bring back, the better of the two.

    The share of the way from the teacher's answer to the image that the student goes, at noised copies of it.
    """
    asked = material.noised.select(
        (material.noised.timesteps >= RECALL_FROM * len(material.weights)).nonzero().flatten()
    )
    clean = torch.stack([memory.clean for memory in material.memories])
    best = torch.zeros(len(clean))
    for kind in (pools.embeddings, pools.outputs):
        if not all(kind):
            continue
        sums = torch.zeros(len(clean))
        for part in torch.arange(len(asked)).split(batch_size):
            lessons = asked.select(part)
            chosen = [kind[place][-1] for place in lessons.prompts.tolist()]
            said = _said(model, lessons, chosen).cpu()
            ways = (
                ways_to(model, lessons, clean[lessons.prompts]) * material.masks[lessons.prompts]
            ).flatten(1)
            gone = ((said - lessons.wanted).flatten(1) * ways).sum(1) / ways.square().sum(1).clamp_min(1e-12)
            sums.index_add_(0, lessons.prompts, gone)
        best = torch.maximum(best, sums / torch.bincount(asked.prompts, minlength=len(clean)))
    return [float(one) for one in best]


def _said(model: LiveModel, lessons: Lessons, chosen: Sequence[Any]) -> torch.Tensor:
    """What the student says, told embeddings, or constants over a prompt."""
    if isinstance(chosen[0], Conditioning):
        return predicted(model, lessons.states, lessons.timesteps, joined(chosen))
    constants = {name: torch.cat([one[name] for one, _ in chosen]) for name in chosen[0][0]}
    with injected(model.denoiser, constants):
        return predicted(model, lessons.states, lessons.timesteps, joined([under for _, under in chosen]))


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


def _one_of(told: Conditioning, chance: random.Random) -> Conditioning:
    place = chance.randrange(len(told))
    return told.select(slice(place, place + 1))
