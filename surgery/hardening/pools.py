"""The attacks in the loop: every image at once, a few steps each, and a pool of the latest of them.

The functions are those of the audit's attacks; only the lengths differ. Starts rotate from round to round, so
that no one way in is closed while another stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from surgery.auditing.attack.embedding import EmbeddingAttack, optimize_embeddings
from surgery.auditing.attack.output import LEARNING_RATE, Constants, OutputAttack, optimize_constants
from surgery.hardening.material import Material
from surgery.hardening.settings import HardenSettings
from surgery.model.conditioning import Conditioning
from surgery.model.pipeline import LiveModel

EMBEDDING_RATE = 0.1  # of Adam, as published
SEEDS_OF_A_ROUND = 1_000


@dataclass
class Pools:
    """What training is told to resist, for each memory.

    Attributes:
        embeddings: conditionings of one sample each, the latest last.
        outputs: (constants [1, width] by layer, conditioning underneath).
    """

    embeddings: list[list[Conditioning]] = field(default_factory=list)
    outputs: list[list[tuple[Constants, Conditioning]]] = field(default_factory=list)

    @classmethod
    def of(cls, memories: int) -> Pools:
        """Empty ones."""
        return cls([[] for _ in range(memories)], [[] for _ in range(memories)])


def attack_all(
    model: LiveModel, material: Material, pools: Pools, settings: HardenSettings, number: int
) -> None:
    """Attack every memory on the student, and put what came of it into the pools; `number` of the round."""
    clean = torch.stack([memory.clean for memory in material.memories])
    starts = start_of(material, number, settings.seed)
    first = (settings.seed + number + 1) * SEEDS_OF_A_ROUND
    for _, found in optimize_embeddings(
        model,
        clean,
        starts,
        embedding_attack(settings, halves(settings.embedding_steps)),
        [first + place for place in range(len(clean))],
    ):
        for place, pool in enumerate(pools.embeddings):
            pool.append(found.select(slice(place, place + 1)))
            del pool[: -settings.pool]
    if not settings.output_steps:
        return
    under = material.empty.repeat(len(clean)) if number % 2 == 0 else _kept(material, len(clean), first)
    for _, constants in optimize_constants(
        model,
        clean,
        under,
        output_attack(settings, halves(settings.output_steps)),
        [first + 500 + place for place in range(len(clean))],
    ):
        for place, outputs in enumerate(pools.outputs):
            one = {name: vectors[place : place + 1] for name, vectors in constants.items()}
            outputs.append((one, under.select(slice(place, place + 1))))
            del outputs[: -settings.pool]


def start_of(material: Material, number: int, seed: int) -> Conditioning:
    """Where the embedding attacks of a round begin: own prompts, Gaussian noise, other prompts, in turn."""
    own = joined([memory.own for memory in material.memories])
    if number % 3 == 0:
        return own
    if number % 3 == 2:
        return _kept(material, len(own), (seed + number + 1) * SEEDS_OF_A_ROUND)
    generator = torch.Generator("cpu").manual_seed(seed + number)
    noise = torch.randn(own.embeddings.shape, generator=generator).to(own.embeddings)
    spread, center = own.embeddings.float().std(), own.embeddings.float().mean()
    return Conditioning((center + spread * noise).to(own.embeddings.dtype), own.added)


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


def _kept(material: Material, count: int, seed: int) -> Conditioning:
    """So many of the prompts that must stay as they are."""
    generator = torch.Generator("cpu").manual_seed(seed)
    places = torch.randint(len(material.kept), (count,), generator=generator)
    return material.kept.select(places.to(material.kept.embeddings.device))
