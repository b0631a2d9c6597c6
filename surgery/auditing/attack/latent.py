"""The latent attack: starting noise that is sought, not drawn, so that the sampler ends at the image.

1. A picture seed gives the starting noise, as always.
2. Each step runs a sampler of 10 steps from the noise (`surgery.auditing.attack.sampler`), compares the
   latent where it ends with the image's, and moves the NOISE with Adam against the mean squared difference.
3. After each step the noise is scaled back to the norm with which it began: noise of another norm is none
   that the model was trained on.

This is done under the empty prompt, under the image's own, and under an embedding that a short embedding
attack has learned (from the image's own prompt, at most 50 steps), always without guidance. Each noise takes
its own course, whatever runs beside it; the scored ones are optimized only where a variant is scored.

Held to its norm, the noise has still as many degrees of freedom as the latent: any model draws any image a
little better that way. Only controls, or a twin, tell what a score means. The attack changes no weight and
goes through the text conditioning as it stands, so that it counts as one that an edit of cross-attention may
close.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch

from surgery.auditing.attack.conditioned import smaller
from surgery.auditing.attack.descent import HALF_PRECISION_SCALE
from surgery.auditing.attack.embedding import EmbeddingAttack, optimize_embeddings
from surgery.auditing.attack.noised_copies import frozen
from surgery.auditing.attack.pictures import picture_seeds_of
from surgery.auditing.attack.protocol import Attack, Point, Target
from surgery.auditing.attack.sampler import sample
from surgery.auditing.settings import AuditSettings
from surgery.errors import SurgeryError
from surgery.measures.pictures import decode_latents, encode_pictures
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.denoising import latents_of_seeds
from surgery.model.pipeline import LiveModel

VARIANTS = ("empty prompt", "own prompt", "attacked embedding")
SAMPLER_STEPS = 10
EMBEDDING_STEPS = 50  # at most, of the short embedding attack
LEARNING_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class LatentAttack(Attack):
    """How the attack is made.

    Attributes:
        curve: after how many steps pictures are drawn, rising; the last is the length of the attack.
        learning_rate: of Adam.
        sampler_steps: from noise to latent.
        batch_size: the most noises optimized at once; halved when memory runs out.
        checkpointed: whether the way back recomputes each sampler step: the memory of one step instead of
            all, for half as much work again.
        embedding: the short attack that learns the third variant's embedding.
    """

    name: ClassVar[str] = "latent"
    passes_edit: ClassVar[bool] = True

    curve: tuple[int, ...]
    learning_rate: float = LEARNING_RATE
    sampler_steps: int = SAMPLER_STEPS
    batch_size: int
    checkpointed: bool = True
    embedding: EmbeddingAttack

    @classmethod
    def from_settings(cls, settings: AuditSettings) -> LatentAttack:
        """The attack as the settings of an audit ask for it."""
        short = replace(
            EmbeddingAttack.from_settings(settings),
            starts=("prompt",),
            curve=(min(EMBEDDING_STEPS, settings.curve[-1]),),
        )
        return cls(
            **picture_seeds_of(settings),
            curve=tuple(settings.latent_curve),
            batch_size=settings.batch_size,
            embedding=short,
        )

    @property
    def effort(self) -> int:
        """The length of the attack in steps."""
        return self.curve[-1]

    def variants(self, target: Target) -> tuple[str, ...]:
        """What the noise is denoised under."""
        return VARIANTS

    def cost(self) -> int:
        """Every step of a noise runs the sampler, twice where the way back recomputes it; every picture once.

        The selection noises of all variants go the whole way. The scored noises go as far as the curve has
        come, at worst those of another variant at each point.
        """

        def steps_of(effort: int) -> int:
            return (2 if self.checkpointed else 1) * self.sampler_steps * effort

        chosen = len(VARIANTS) * len(self.selection_seeds)
        selection = chosen * (steps_of(self.effort) + self.sampler_steps * len(self.curve))
        scored = len(self.scored_seeds) * sum(steps_of(one) + self.sampler_steps for one in self.curve)
        return selection + scored + self.embedding.effort * self.embedding.batch

    def draw(self, model: LiveModel, target: Target) -> Iterator[Point]:
        """Optimize the noise of every picture that is asked for; see `Attack.draw`."""
        clean = encode_pictures(model, target.image[None])[0].to(model.device)
        prompts = encode_prompts(model, ["", target.prompt])
        own = prompts.select(slice(1, 2))
        ((_, learned),) = optimize_embeddings(model, clean, own, self.embedding, [target.seed])
        noises = _Noises(self, model, clean, prompts.join(learned))
        for effort in self.curve:
            yield Point(effort, partial(noises.pictures, effort))


@dataclass
class _Course:
    """One noise on its way: what it is denoised under, where it stands, its norm and its own optimizer."""

    variant: int
    noise: torch.Tensor  # float32 [channels, height, width]
    norm: torch.Tensor
    optimizer: torch.optim.Adam
    steps: int = 0


@dataclass
class _Noises:
    """The starting noises of one attack, each moved on only when it is asked for."""

    attack: LatentAttack
    model: LiveModel
    clean: torch.Tensor
    conditions: Conditioning
    courses: dict[tuple[int, int], _Course] = field(default_factory=dict)

    def pictures(self, effort: int, places: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
        """uint8 [places, seeds, 3, height, width], after so many steps."""
        wanted = [self._course(place, seed) for place in places for seed in seeds]
        latents: list[torch.Tensor] = []
        chunk = self.attack.batch_size
        while len(latents) < len(wanted):
            taken = wanted[len(latents) : len(latents) + chunk]
            try:
                while late := [one for one in taken if one.steps < effort]:
                    self._step(late)
                with torch.no_grad():
                    latents += self._sampled(torch.stack([one.noise for one in taken]).detach(), taken)
            except torch.OutOfMemoryError:
                chunk = smaller(chunk)
        pictures = decode_latents(self.model, torch.stack(latents))
        return pictures.view(len(places), len(seeds), *pictures.shape[1:])

    def _course(self, variant: int, seed: int) -> _Course:
        if (variant, seed) not in self.courses:
            noise = latents_of_seeds(self.model, [seed])[0].to(self.model.device).requires_grad_(True)
            optimizer = torch.optim.Adam([noise], lr=self.attack.learning_rate)
            self.courses[variant, seed] = _Course(variant, noise, noise.detach().norm(), optimizer)
        return self.courses[variant, seed]

    def _sampled(self, noise: torch.Tensor, courses: Sequence[_Course]) -> torch.Tensor:
        places = torch.tensor([one.variant for one in courses], device=self.conditions.embeddings.device)
        told = self.conditions.select(places)
        return sample(self.model, noise, told, self.attack.sampler_steps, self.attack.checkpointed)

    def _step(self, courses: Sequence[_Course]) -> None:
        """One step of each of the noises."""
        scale = HALF_PRECISION_SCALE if self.model.computes_in == torch.float16 else 1.0
        with frozen(self.model.denoiser), torch.enable_grad():
            noise = torch.stack([one.noise.detach() for one in courses]).requires_grad_(True)
            error = (self._sampled(noise, courses) - self.clean).square()
            (gradient,) = torch.autograd.grad(error.flatten(1).mean(1).sum() * scale, noise)
        if not bool(torch.isfinite(gradient).all()):
            raise SurgeryError(
                self.model.source, "the attack's gradient is not finite", "try --dtype float32"
            )
        for one, direction in zip(courses, gradient / scale, strict=True):
            one.noise.grad = direction
            one.optimizer.step()
            with torch.no_grad():
                one.noise.mul_(one.norm / one.noise.norm())
            one.steps += 1
