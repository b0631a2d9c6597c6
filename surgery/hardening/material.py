"""What hardening trains on: made by the model itself, no training set needed.

- **teacher**: SOURCE with the rows zeroed. What it says is what the hardened model should say.
- **targets**: the memories' pictures, only to attack for. Where no image is given, SOURCE's own replica.
- **surrogates**: pictures that the teacher draws for each prompt: what the prompt should draw. Where zeroed
  rows left the memory on its prompt (localization did not resolve it), a neighbor prompt takes its place,
  and the prompt itself becomes one of the attacks to be trained against.
- **kept**: ordinary prompts, prompts of the memories' own words with another meaning, the empty prompt, and
  the user's pictures, each with a latent: the student must go on saying what the teacher says of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from surgery.auditing.canaries import own_copy
from surgery.auditing.measures.pictures import encode_pictures, reconstruct
from surgery.auditing.measures.replication import generate, similarities_to
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.subjects import Subject
from surgery.denoisers import BLOCKS
from surgery.hardening.settings import HardenSettings
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.pipeline import LiveModel
from surgery.model.value_layers import value_layers
from surgery.model.work import Work
from surgery.neurons import NeuronSet

STAND_IN_SEEDS = 4
CONTROL_SEEDS, SURROGATE_SEEDS, KEPT_SEEDS, TARGET_SEEDS = 3_000_000, 3_100_000, 3_200_000, 3_300_000


@dataclass(frozen=True)
class Memory:
    """One memory under hardening; latents are scaled, [channels, height, width] each.

    Attributes:
        prompt: its caption.
        clean: the latent of its picture.
        compared: what drawn pictures are compared with, uint8 [3, height, width].
        mask: where; None for everywhere.
        own: the conditioning of its prompt.
        safe: the conditioning under which the teacher does not draw it.
        surrogates: latents of what the teacher draws under it [surrogates, ...].
        resolved: whether zeroed rows took it from its own prompt.
    """

    prompt: str
    clean: torch.Tensor
    compared: torch.Tensor
    mask: torch.Tensor | None
    own: Conditioning
    safe: Conditioning
    surrogates: torch.Tensor
    resolved: bool


@dataclass(frozen=True)
class Material:
    """Everything that training and the gate read.

    Attributes:
        kept, kept_latents: what must stay as it is: conditioning of n prompts, latents [n, ...].
        empty: the conditioning of the empty prompt.
        controls: latents of never-seen pictures [controls, ...], and the pictures that they decode to.
        neighbors: captions of the memories' own words with another meaning.
    """

    teacher: LiveModel
    memories: tuple[Memory, ...]
    kept: Conditioning
    kept_latents: torch.Tensor
    empty: Conditioning
    controls: torch.Tensor
    control_pictures: torch.Tensor
    control_prompts: Conditioning
    neighbors: tuple[str, ...]


def zero_rows(model: LiveModel, neurons: NeuronSet) -> None:
    """Zero rows of a live model for good, biases too."""
    layers = value_layers(model.denoiser, BLOCKS)
    with torch.no_grad():
        for name, rows in neurons.items():
            layers[name].weight[list(rows)] = 0
            if layers[name].bias is not None:
                layers[name].bias[list(rows)] = 0


def gather(
    source: LiveModel,
    subjects: Sequence[Subject],
    neurons: NeuronSet,
    ordinary: Sequence[str],
    data: Sequence[tuple[str, torch.Tensor]],
    similarity: Similarity,
    settings: HardenSettings,
    work: Work,
    quiet: bool,
) -> Material:
    """Draw and encode everything once.

    Args:
        data: the user's own pictures with captions, uint8 [3, height, width] each; may be empty.
    """
    teacher = own_copy(source)
    zero_rows(teacher, neurons)
    teacher.denoiser.requires_grad_(False)
    chance = random.Random(settings.seed)
    prompts = [subject.prompt for subject in subjects]
    near = [neighbors_of(prompt, ordinary, max(1, settings.neighbors), chance) for prompt in prompts]
    draw = _Draws(settings, work, quiet)
    memories = tuple(
        _memory(source, teacher, subject, own, similarity, draw, place)
        for place, (subject, own) in enumerate(zip(subjects, near, strict=True))
    )
    chosen = list(ordinary)
    chance.shuffle(chosen)
    kept = chosen[: settings.ordinary] + [
        caption for captions in near for caption in captions[: settings.neighbors]
    ]
    latents = [encode_pictures(teacher, draw(teacher, kept, KEPT_SEEDS, "kept"))]
    if data:
        latents.append(encode_pictures(teacher, torch.stack([picture for _, picture in data])))
        kept += [caption for caption, _ in data]
    others = [caption for caption in ordinary if caption not in kept] or list(ordinary)
    asked = (others * settings.gate_controls)[: settings.gate_controls]
    pictures = draw(source, asked, CONTROL_SEEDS, "controls")
    return Material(
        teacher=teacher,
        memories=memories,
        kept=encode_prompts(teacher, kept),
        kept_latents=torch.cat(latents).float().cpu(),
        empty=encode_prompts(teacher, [""]),
        controls=encode_pictures(teacher, pictures).float().cpu(),
        control_pictures=reconstruct(teacher, pictures),
        control_prompts=encode_prompts(teacher, asked),
        neighbors=tuple(caption for captions in near for caption in captions[: settings.neighbors]),
    )


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


@dataclass(frozen=True)
class _Draws:
    """Pictures of captions, one each: uint8 [captions, 3, height, width]."""

    settings: HardenSettings
    work: Work
    quiet: bool

    def __call__(self, model: LiveModel, captions: Sequence[str], seeds: int, label: str) -> torch.Tensor:
        parts = []
        for start in range(0, len(captions), self.settings.batch_size):
            for place, caption in enumerate(captions[start : start + self.settings.batch_size], start):
                parts.append(
                    generate(
                        model, [caption], [seeds + self.settings.seed + place], self.settings.drawing(),
                        self.work, quiet=True,
                    )[0]
                )  # fmt: skip
        return torch.cat(parts)

    def several(self, model: LiveModel, caption: str, first: int, count: int) -> torch.Tensor:
        """One caption at several seeds: uint8 [count, 3, height, width]."""
        seeds = [first + self.settings.seed + place for place in range(count)]
        return generate(model, [caption], seeds, self.settings.drawing(), self.work, quiet=True)[0]


def _memory(
    source: LiveModel,
    teacher: LiveModel,
    subject: Subject,
    near: Sequence[str],
    similarity: Similarity,
    draw: _Draws,
    place: int,
) -> Memory:
    if subject.image is not None:
        picture = subject.image
        compared = reconstruct(source, picture[None])[0]
    else:
        drawn = draw.several(source, subject.prompt, TARGET_SEEDS + 100 * place, STAND_IN_SEEDS)
        alike = [float(similarities_to(drawn, one, similarity, subject.mask).sum()) for one in drawn]
        picture = compared = drawn[alike.index(max(alike))]
    count = draw.settings.surrogates
    surrogates = draw.several(teacher, subject.prompt, SURROGATE_SEEDS + 100 * place, count)
    likeness = similarities_to(surrogates, compared, similarity, subject.mask)
    resolved = bool((likeness < similarity.threshold).all())
    safe = subject.prompt
    if not resolved:
        safe = near[0]
        surrogates = draw.several(teacher, safe, SURROGATE_SEEDS + 100 * place, count)
    own, safely = encode_prompts(teacher, [subject.prompt]), encode_prompts(teacher, [safe])
    return Memory(
        prompt=subject.prompt,
        clean=encode_pictures(teacher, picture[None])[0].float().cpu(),
        compared=compared,
        mask=subject.mask,
        own=own,
        safe=safely,
        surrogates=encode_pictures(teacher, surrogates).float().cpu(),
        resolved=resolved,
    )
