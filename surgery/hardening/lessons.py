"""Lessons: what the pruned model says at states that samplers and attacks meet, asked once.

The student has to say at these states what the teacher said. Three kinds of states, no training data:

1. along the deterministic DDIM path that the teacher itself draws for a prompt (`paths_of`);
2. noised copies of a picture (`noised_lessons`): where a gradient attack on that picture asks the denoiser;
3. both may be asked with another conditioning than the teacher was told (an attack's, for one).

All answers are computed before the first step of training, so that no second model is in memory then. Every
lesson weighs the more, the less a seed changes at its timestep (`timestep_weights`): that is the unit in
which the audit measures the change of ordinary prompts, and the noisy end, where pictures are decided, would
count for nothing in a plain squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.auditing.attack.noised_copies import prediction_type, signal_levels
from surgery.hardening.dealing import Job
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import latents_of_seeds
from surgery.model.pipeline import LiveModel

LEAST_SIGNAL = 1e-6  # a schedule that ends in pure noise has none at its last timestep
WEIGHT_BINS = 20  # of timesteps, over which the seeds' difference is averaged


@dataclass(frozen=True)
class Lessons:
    """n states and what is to be said there, on the CPU.

    Attributes:
        states: what the denoiser reads, [n, channels, height, width].
        timesteps: int64 [n].
        wanted: what the teacher says there, the shape of the states.
        prompts: which prompt (or picture) each belongs to, int64 [n].
    """

    states: torch.Tensor
    timesteps: torch.Tensor
    wanted: torch.Tensor
    prompts: torch.Tensor

    def __len__(self) -> int:
        return len(self.states)

    def select(self, index: torch.Tensor) -> Lessons:
        """Some of the lessons, by position."""
        return Lessons(self.states[index], self.timesteps[index], self.wanted[index], self.prompts[index])

    @classmethod
    def joined(cls, parts: Sequence[Lessons]) -> Lessons:
        """Lessons one after another; their prompts keep their numbers."""
        return cls(*(torch.cat(column) for column in zip(*(part._columns() for part in parts), strict=True)))

    def renumbered(self, prompts: torch.Tensor) -> Lessons:
        """The same lessons; those of prompt i become those of `prompts[i]`."""
        return Lessons(self.states, self.timesteps, self.wanted, prompts[self.prompts])

    def places_of(self, prompt: int) -> list[int]:
        """The positions of one prompt's lessons."""
        return (self.prompts == prompt).nonzero().flatten().tolist()

    def _columns(self) -> tuple[torch.Tensor, ...]:
        return self.states, self.timesteps, self.wanted, self.prompts


def paths_of(
    model: LiveModel,
    conditioning: Conditioning,
    seeds: Sequence[int],
    positions: int,
    batch_size: int,
    unconditional: Conditioning | None = None,
    guidance: float = 1.0,
) -> Job[tuple[Lessons, torch.Tensor], tuple[Lessons, torch.Tensor]]:
    """The states of the model's own paths, and what it says at each.

    Args:
        conditioning: of n prompts; each gets one path.
        seeds: one per prompt: of its first latent, and of where its timesteps lie within their intervals.
        positions: states per path, spread over all timesteps. Cost: positions x prompts sample-forwards.
        unconditional: conditioning of the empty prompt; with it, classifier-free guidance leads the paths, at
            twice the cost. What the model says is said without guidance all the same.

    Returns:
        A piece for each batch of prompts. Of them are made n * positions lessons, numbered by prompt; and
        where the paths end: scaled clean latents [n, ...].
    """

    @torch.no_grad()
    def drawn(start: int) -> tuple[Lessons, torch.Tensor]:
        levels, kind = signal_levels(model), prediction_type(model)
        chosen = list(seeds[start : start + batch_size])
        told = conditioning.select(slice(start, start + len(chosen)))
        grid = _timesteps(len(levels), positions, chosen[0])
        latents = latents_of_seeds(model, chosen)
        reached = [*levels[grid].tolist(), 1.0]
        found = []
        for timestep, share, following in zip(grid, reached, reached[1:], strict=False):
            at = timestep.expand(len(chosen))
            said = predicted(model, latents, at, told).cpu()
            found.append(Lessons(latents, at.clone(), said, torch.arange(start, start + len(chosen))))
            led = said
            if unconditional is not None:
                plain = predicted(model, latents, at, unconditional.repeat(len(chosen))).cpu()
                led = plain + guidance * (said - plain)
            latents = _next(latents, led, share, following, kind)
        return Lessons.joined(found), latents

    def joined(found: list[tuple[Lessons, torch.Tensor]]) -> tuple[Lessons, torch.Tensor]:
        return Lessons.joined([lessons for lessons, _ in found]), torch.cat([ends for _, ends in found])

    return Job([partial(drawn, start) for start in range(0, len(conditioning), batch_size)], joined)


def noised_lessons(
    model: LiveModel,
    clean: torch.Tensor,
    conditioning: Conditioning,
    copies: int,
    seed: int,
    batch_size: int,
) -> Job[torch.Tensor, Lessons]:
    """Noised copies of pictures, and what the model says of them under a prompt each.

    Args:
        clean: scaled latents [n, channels, height, width], on the CPU.
        conditioning: of n prompts.
        copies: of each picture, their timesteps spread over all. Cost: copies x n sample-forwards.

    Returns:
        A piece for each batch of pictures and copy, of which the lessons are made.
    """
    levels = signal_levels(model)
    generator = torch.Generator("cpu").manual_seed(seed)
    asked = []
    for start in range(0, len(clean), batch_size):
        part = clean[start : start + batch_size].float()
        for place in range(copies):
            share = (place + torch.rand(len(part), generator=generator)) / copies
            timesteps = (share * len(levels)).long().clamp_max(len(levels) - 1)
            noised = _noised(part, levels[timesteps], generator)
            asked.append((noised, timesteps, torch.arange(start, start + len(part))))

    @torch.no_grad()
    def said(states: torch.Tensor, timesteps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        told = conditioning.select(places.to(conditioning.embeddings.device))
        return predicted(model, states, timesteps, told).cpu()

    def joined(found: list[torch.Tensor]) -> Lessons:
        return Lessons.joined(
            [
                Lessons(states, timesteps, wanted, places)
                for (states, timesteps, places), wanted in zip(asked, found, strict=True)
            ]
        )

    return Job([partial(said, *one) for one in asked], joined)


def timestep_weights(model: LiveModel, lessons: Lessons, exponent: float) -> torch.Tensor:
    """What a squared error at each timestep weighs: float32 [timesteps], its mean 1.

    Args:
        lessons: paths of many prompts.
        exponent: 0 for 1 everywhere, 1 for the inverse of the squared difference that a seed makes.
    """
    levels = signal_levels(model)
    total = len(levels)
    spread = torch.ones(total)
    bins = (lessons.timesteps * WEIGHT_BINS // total).clamp_max(WEIGHT_BINS - 1)
    known = []
    for number in range(WEIGHT_BINS):
        here = (bins == number).nonzero().flatten()
        if len(here) >= 2:
            part = lessons.select(here)
            alpha = levels[part.timesteps].view(-1, 1, 1, 1)
            noise = _as_noise(part.states, part.wanted, alpha, prediction_type(model))
            added = noise - part.states / (1 - alpha).sqrt()
            known.append((number, float(added.var(0).mean().clamp_min(1e-12))))
    if not known:
        return spread
    for number in range(WEIGHT_BINS):
        nearest = min(known, key=lambda pair: abs(pair[0] - number))
        begin, end = number * total // WEIGHT_BINS, (number + 1) * total // WEIGHT_BINS
        spread[begin:end] = nearest[1]
    weights = spread.pow(-exponent)
    return weights / weights.mean()


def ways_to(model: LiveModel, lessons: Lessons, clean: torch.Tensor) -> torch.Tensor:
    """What would have to be added to each answer for a picture to be drawn: [n, channels, height, width].

    Args:
        clean: the scaled latent of one picture per lesson, on the CPU.
    """
    alpha = signal_levels(model)[lessons.timesteps].view(-1, 1, 1, 1)
    noise = (lessons.states - alpha.sqrt() * clean) / (1 - alpha).sqrt().clamp_min(LEAST_SIGNAL)
    kind = prediction_type(model)
    drawing = {
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        "sample": clean,
    }[kind]
    return drawing - lessons.wanted


def _timesteps(total: int, positions: int, seed: int) -> torch.Tensor:
    """Falling timesteps, one from each of `positions` equal intervals; the first is the noisiest there is."""
    generator = torch.Generator("cpu").manual_seed(seed)
    shares = (torch.arange(positions) + torch.rand(positions, generator=generator)) / positions
    grid = (total - 1 - shares * total).round().long().clamp(0, total - 1)
    grid[0] = total - 1
    return grid


def _noised(clean: torch.Tensor, levels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    alpha = levels.view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def _as_noise(states: torch.Tensor, said: torch.Tensor, alpha: torch.Tensor, kind: str) -> torch.Tensor:
    """A prediction as predicted noise; alpha broadcasts to the states."""
    if kind == "epsilon":
        return said
    if kind == "v_prediction":
        return alpha.sqrt() * said + (1 - alpha).sqrt() * states
    return (states - alpha.sqrt() * said) / (1 - alpha).sqrt().clamp_min(LEAST_SIGNAL)


def _next(
    latents: torch.Tensor, said: torch.Tensor, share: float, following: float, kind: str
) -> torch.Tensor:
    """DDIM's update without noise (arXiv 2010.02502, equation 12), from a share of signal to another."""
    alpha = torch.tensor(max(share, LEAST_SIGNAL))
    noise = _as_noise(latents, said, alpha, kind)
    clean = said if kind == "sample" else (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    return following**0.5 * clean + (1 - following) ** 0.5 * noise
