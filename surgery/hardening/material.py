"""What hardening trains on: made by the model itself, no training set needed.

- **teacher**: SOURCE with the rows zeroed. What it says is what the hardened model should say; it is asked
  once, here, and its answers are kept (`surgery.hardening.lessons`).
- **targets**: the memories' pictures, only to attack for. Where no image is given, SOURCE's own replica.
- **surrogates**: the paths on which the teacher draws each prompt: what the prompt should draw. Where zeroed
  rows left the memory on its prompt (localization did not resolve it), a neighbor prompt that does not draw
  it takes its place (`surgery.hardening.surrogates`).
- **leaks**: the prompts that still draw a memory from the teacher, its own or neighbors. They are attacks to
  be trained against; what they draw is never kept.
- **triggers**: what the zeroed rows used to say, or what only the prompt says where rows resolve nothing
  (`surgery.hardening.triggers`).
- **kept**: paths of ordinary prompts, of prompts of the memories' own words with another meaning and of the
  empty prompt, and noised copies of the user's pictures: there the student must say what the teacher says.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from surgery.auditing.attack.output import Constants
from surgery.auditing.budget import counted
from surgery.auditing.canaries import own_copy
from surgery.denoisers import BLOCKS
from surgery.hardening.lessons import Lessons, draw_paths, noised_lessons, timestep_weights
from surgery.hardening.settings import HardenSettings
from surgery.hardening.surrogates import Target, draw_surrogates, leaks_of, neighbors_of, safe_candidates
from surgery.hardening.targets import drawn, target_of
from surgery.hardening.triggers import prompt_constants, trigger_constants
from surgery.measures.pictures import encode_pictures, reconstruct
from surgery.measures.similarity import Similarity
from surgery.measures.subjects import Subject
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.pipeline import LiveModel
from surgery.model.value_layers import value_layers
from surgery.model.work import Work
from surgery.neurons import NeuronSet

EMPTY_SHARE = 0.1  # of kept prompts are empty: guidance leans on it
CONTROL_SEEDS, KEPT_SEEDS = 3_000_000, 3_200_000
NOISED_SEEDS, DATA_SEEDS, TRIGGER_SEEDS = 3_400_000, 3_500_000, 3_600_000


@dataclass(frozen=True)
class Memory:
    """One memory under hardening; latents are scaled, [channels, height, width] each.

    Attributes:
        prompt: its caption.
        clean: the latent of its picture.
        compared: what drawn pictures are compared with, uint8 [3, height, width].
        mask: where; None for everywhere.
        own: the conditioning of its prompt.
        trigger: constants that draw it from SOURCE with zeroed rows.
        resolved: whether zeroed rows took it from its own prompt.
        leaks: of the prompts that draw it from the teacher: its own where it is not resolved, and neighbors.
    """

    prompt: str
    clean: torch.Tensor
    compared: torch.Tensor
    mask: torch.Tensor | None
    own: Conditioning
    trigger: Constants
    resolved: bool
    leaks: tuple[Conditioning, ...] = ()


@dataclass(frozen=True)
class Material:
    """Everything that training and the gate read.

    Attributes:
        surrogates: lessons of what each memory's prompt should draw, numbered by memory.
        noised: lessons of noised copies of each memory's picture, numbered by memory.
        masks: where these count, float32 [memories, 1, height, width] of a latent, their means 1.
        kept: lessons of what must stay as it is, numbered by prompt; `told` is their conditioning.
        weights: of a squared error at each timestep [timesteps].
        ordinary: the conditioning of the ordinary prompts among them, where attacks may begin.
        empty: the conditioning of the empty prompt.
        safe: of the prompts that the teacher draws the surrogates of: the memories' own, where rows resolve.
        controls: latents of never-seen pictures [controls, ...], and the pictures that they decode to.
        neighbors: captions of the memories' own words with another meaning, but for those that leak.
    """

    memories: tuple[Memory, ...]
    surrogates: Lessons
    noised: Lessons
    masks: torch.Tensor
    kept: Lessons
    told: Conditioning
    weights: torch.Tensor
    ordinary: Conditioning
    empty: Conditioning
    safe: Conditioning
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
    """Draw, encode and ask everything once.

    Args:
        data: the user's own pictures with captions, uint8 [3, height, width] each; may be empty.
    """
    teacher = own_copy(source)
    zero_rows(teacher, neurons)
    teacher.denoiser.requires_grad_(False)
    chance = random.Random(settings.seed)
    prompts = [subject.prompt for subject in subjects]
    near = [neighbors_of(prompt, ordinary, max(1, settings.neighbors), chance) for prompt in prompts]
    chosen = list(ordinary)
    chance.shuffle(chosen)
    others = chosen[settings.ordinary :] or chosen
    asked = (others * settings.gate_controls)[: settings.gate_controls]
    control_seeds = [CONTROL_SEEDS + settings.seed + place for place in range(len(asked))]
    controls = drawn(source, asked, control_seeds, settings, work)
    own = encode_prompts(source, prompts)
    with counted(source, work):
        triggers = trigger_constants(source, neurons, own, TRIGGER_SEEDS + settings.seed, settings.batch_size)
    pictures = [
        target_of(source, subject, similarity, settings, work, place)
        for place, subject in enumerate(subjects)
    ]
    with counted(teacher, work):
        targets = [
            Target(compared, subject.mask, similarity)
            for subject, (_, compared) in zip(subjects, pictures, strict=True)
        ]
        neighbors = [captions[: settings.neighbors] for captions in near]
        kept, told, leaking = _kept(teacher, chosen[: settings.ordinary], neighbors, targets, data, settings)
        surrogates, resolved, safe = draw_surrogates(
            teacher, own, safe_candidates(near, leaking, others), targets, settings
        )
        if unresolved := [place for place, good in enumerate(resolved) if not good]:
            places = torch.tensor(unresolved)
            found = prompt_constants(
                teacher,
                own.select(places),
                safe.select(places),
                TRIGGER_SEEDS + settings.seed,
                settings.batch_size,
            )
            for place, trigger in zip(unresolved, found, strict=True):
                triggers[place] = trigger
        memories = tuple(
            Memory(
                subject.prompt,
                encode_pictures(teacher, picture[None])[0].float().cpu(),
                compared,
                subject.mask,
                own.select(slice(place, place + 1)),
                triggers[place],
                resolved[place],
                leaks_of(teacher, own, place, resolved[place], leaking[place]),
            )
            for place, (subject, (picture, compared)) in enumerate(zip(subjects, pictures, strict=True))
        )
        clean = torch.stack([memory.clean for memory in memories])
        noised = noised_lessons(
            teacher, clean, safe, settings.positions, NOISED_SEEDS + settings.seed, settings.batch_size
        )
    return Material(
        memories=memories,
        surrogates=surrogates,
        noised=noised,
        masks=torch.stack([_latent_mask(memory.mask, clean.shape[-2:]) for memory in memories]),
        kept=kept,
        told=told,
        weights=timestep_weights(teacher, kept, settings.noisy_weight),
        ordinary=told.select(slice(0, min(settings.ordinary, len(chosen)))),
        empty=encode_prompts(teacher, [""]),
        safe=safe,
        controls=encode_pictures(teacher, controls).float().cpu(),
        control_pictures=reconstruct(teacher, controls),
        control_prompts=encode_prompts(teacher, asked),
        neighbors=tuple(
            caption
            for captions, bad in zip(neighbors, leaking, strict=True)
            for caption in captions
            if caption not in bad
        ),
    )


def _kept(
    teacher: LiveModel,
    chosen: Sequence[str],
    near: Sequence[Sequence[str]],
    targets: Sequence[Target],
    data: Sequence[tuple[str, torch.Tensor]],
    settings: HardenSettings,
) -> tuple[Lessons, Conditioning, list[list[str]]]:
    """Lessons of what must stay as it is, the conditioning of their prompts, and each memory's neighbors that
    draw the memory itself: of those there is no lesson.
    """
    prompts = [*chosen, *(caption for captions in near for caption in captions)]
    prompts += [""] * max(1, round(EMPTY_SHARE * len(prompts)))
    told = encode_prompts(teacher, prompts)
    seeds = [KEPT_SEEDS + settings.seed + place for place in range(len(prompts))]
    lessons, ends = draw_paths(teacher, told, seeds, settings.positions, settings.batch_size)
    leaking, good, first = [], torch.ones(len(prompts), dtype=torch.bool), len(chosen)
    for some_near, target in zip(near, targets, strict=True):
        some = slice(first, first + len(some_near))
        found = target.is_drawn(teacher, ends[some])
        leaking.append([caption for caption, bad in zip(some_near, found.tolist(), strict=True) if bad])
        good[some] = ~found
        first += len(some_near)
    lessons = lessons.select(good[lessons.prompts].nonzero().flatten())
    if not data:
        return lessons, told, leaking
    captions = encode_prompts(teacher, [caption for caption, _ in data])
    clean = encode_pictures(teacher, torch.stack([picture for _, picture in data])).float().cpu()
    further = noised_lessons(
        teacher, clean, captions, settings.positions, DATA_SEEDS + settings.seed, settings.batch_size
    )
    numbered = further.renumbered(len(told) + torch.arange(len(clean)))
    return Lessons.joined([lessons, numbered]), told.join(captions), leaking


def _latent_mask(mask: torch.Tensor | None, size: Sequence[int]) -> torch.Tensor:
    """Where a picture counts, on the grid of its latent: float32 [1, height, width], its mean 1."""
    if mask is None:
        return torch.ones(1, *size)
    shares = torch.nn.functional.adaptive_avg_pool2d(mask.float()[None], (size[0], size[1]))
    return shares / shares.mean()
