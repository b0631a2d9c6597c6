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
  empty prompt, and noised copies of the user's pictures: there the student must say what the teacher says
  (`surgery.hardening.kept`).

Several processes deal all of it out by the batches in which the denoiser is asked. What rests on nothing else
comes first, all together, so that nobody waits for a last batch of one kind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch

from surgery.auditing.attack.output import Constants
from surgery.auditing.budget import counted
from surgery.auditing.canaries import own_copy
from surgery.denoisers import BLOCKS
from surgery.hardening.dealing import Dealer, Job
from surgery.hardening.kept import kept_prompts, lessons_of_data, without_leaks
from surgery.hardening.lessons import Lessons, noised_lessons, paths_of, timestep_weights
from surgery.hardening.settings import HardenSettings
from surgery.hardening.surrogates import (
    Target,
    choose_surrogates,
    leaks_of,
    neighbors_of,
    safe_candidates,
    surrogate_paths,
)
from surgery.hardening.targets import drawn, targets_of
from surgery.hardening.triggers import prompt_constants, trigger_constants
from surgery.measures.pictures import encode_pictures, reconstruct
from surgery.measures.similarity import Similarity
from surgery.measures.subjects import Subject
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.pipeline import LiveModel
from surgery.model.value_layers import value_layers
from surgery.neurons import NeuronSet

CONTROL_SEEDS, KEPT_SEEDS = 3_000_000, 3_200_000
NOISED_SEEDS, TRIGGER_SEEDS = 3_400_000, 3_600_000


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
        gate_prompts: ordinary prompts for the gate to ask, shuffled, those that are not kept before others.
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
    gate_prompts: tuple[str, ...]


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
    dealer: Dealer,
) -> Material:
    """Draw, encode and ask everything once; dealt out, and the same on every process.

    Args:
        data: the user's own pictures with captions, uint8 [3, height, width] each; may be empty.

    Raises:
        SurgeryError: another process failed.
    """
    teacher = own_copy(source)
    zero_rows(teacher, neurons)
    teacher.denoiser.requires_grad_(False)
    seed, together = settings.seed, settings.batch_size
    chance = random.Random(seed)
    prompts = [subject.prompt for subject in subjects]
    near = [neighbors_of(prompt, ordinary, max(1, settings.neighbors), chance) for prompt in prompts]
    neighbors = [captions[: settings.neighbors] for captions in near]
    chosen = list(ordinary)
    chance.shuffle(chosen)
    others = chosen[settings.ordinary :] or chosen
    chosen = chosen[: settings.ordinary]
    asked = (others * settings.gate_controls)[: settings.gate_controls]
    kept_captions = kept_prompts(chosen, neighbors)
    own = encode_prompts(source, prompts)
    told = encode_prompts(teacher, kept_captions)
    with counted(source, dealer.work), counted(teacher, dealer.work):
        drawn_kept, drawn_own, pictures, controls, triggers = dealer.made_of(  # the longest pieces first
            paths_of(teacher, told, _seeds(KEPT_SEEDS + seed, told), settings.positions, together),
            surrogate_paths(teacher, own, settings),
            targets_of(source, subjects, similarity, settings),
            drawn(source, asked, _seeds(CONTROL_SEEDS + seed, asked), settings),
            trigger_constants(source, neurons, own, TRIGGER_SEEDS + seed, together),
        )
        targets = [
            Target(compared, subject.mask, similarity)
            for subject, (_, compared) in zip(subjects, pictures, strict=True)
        ]
        kept, leaking = without_leaks(teacher, drawn_kept, len(chosen), neighbors, targets, dealer)
        surrogates, resolved, safe = choose_surrogates(
            teacher, own, drawn_own, safe_candidates(near, leaking, others), targets, settings, dealer
        )
        clean = encode_pictures(teacher, torch.stack([picture for picture, _ in pictures])).float().cpu()
        jobs: list[Job[Any, Any]] = [
            noised_lessons(teacher, clean, safe, settings.positions, NOISED_SEEDS + seed, together)
        ]
        unresolved = [place for place, good in enumerate(resolved) if not good]
        if unresolved:
            who = torch.tensor(unresolved)
            found = own.select(who), safe.select(who)
            jobs.append(prompt_constants(teacher, *found, TRIGGER_SEEDS + seed, together))
        if data:
            captions, job = lessons_of_data(teacher, data, settings)
            jobs.append(job)
        noised, *further = dealer.made_of(*jobs)
    if data:
        kept = Lessons.joined([kept, further.pop().renumbered(len(told) + torch.arange(len(data)))])
        told = told.join(captions)
    if unresolved:
        for place, trigger in zip(unresolved, further.pop(), strict=True):
            triggers[place] = trigger
    memories = tuple(
        Memory(
            subject.prompt,
            clean[place],
            target.compared,
            subject.mask,
            own.select(slice(place, place + 1)),
            triggers[place],
            resolved[place],
            leaks_of(teacher, own, place, resolved[place], leaking[place]),
        )
        for place, (subject, target) in enumerate(zip(subjects, targets, strict=True))
    )
    return Material(
        memories=memories,
        surrogates=surrogates,
        noised=noised,
        masks=torch.stack([_latent_mask(memory.mask, clean.shape[-2:]) for memory in memories]),
        kept=kept,
        told=told,
        weights=timestep_weights(teacher, kept, settings.noisy_weight),
        ordinary=told.select(slice(0, len(chosen))),
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
        gate_prompts=(*(one for one in others if one not in kept_captions), *chosen),
    )


def _seeds(first: int, prompts: Sized) -> list[int]:
    return [first + place for place in range(len(prompts))]


def _latent_mask(mask: torch.Tensor | None, size: Sequence[int]) -> torch.Tensor:
    """Where a picture counts, on the grid of its latent: float32 [1, height, width], its mean 1."""
    if mask is None:
        return torch.ones(1, *size)
    shares = torch.nn.functional.adaptive_avg_pool2d(mask.float()[None], (size[0], size[1]))
    return shares / shares.mean()
