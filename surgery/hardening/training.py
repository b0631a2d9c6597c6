"""Training: the student learns to say, whatever it is told, what the teacher says of the safe prompt.

Each step adds up to three terms, each of them a mean squared difference of predictions:

1. **embedding**: at noised surrogates, and at the noised image itself, told an attacked embedding;
2. **output**: the same, with attacked constants added to the outputs of cross-attention;
3. **keep** (weighted): at noised pictures of ordinary prompts, of neighbors and of the empty prompt, told
   these.

The teacher's own prediction is the goal everywhere, not the true noise: it varies less, so few steps suffice
and little else moves. The image itself is among the inputs because attacks descend on it: where the
student's prediction there no longer depends on what it is told, they have nothing to follow. Zeroed rows
stay zero.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.auditing.attack.noised_copies import signal_levels
from surgery.errors import UsageError
from surgery.hardening.material import Material, zero_rows
from surgery.hardening.pools import Pools, joined
from surgery.hardening.settings import HardenSettings
from surgery.model.conditioning import Conditioning
from surgery.model.injection import injected, text_attentions
from surgery.model.pipeline import LiveModel
from surgery.neurons import NeuronSet

EMPTY_SHARE = 0.15  # of kept samples are told nothing: guidance leans on it
NOISY_FROM = 0.6  # of the timesteps: from there up is the noisy end
CLIP = 1.0  # largest norm of a gradient


@dataclass
class Trainer:
    """A student, its optimizer, and what it is trained on.

    Attributes:
        trained: names of the parameters that change.
    """

    student: LiveModel
    material: Material
    neurons: NeuronSet
    settings: HardenSettings
    trained: Sequence[str]

    def __post_init__(self) -> None:
        self.levels = signal_levels(self.student)
        chosen = set(self.trained)
        for name, parameter in self.student.denoiser.named_parameters():
            parameter.requires_grad_(name in chosen)
        self.parameters = [
            parameter for name, parameter in self.student.denoiser.named_parameters() if name in chosen
        ]
        self.optimizer = make_optimizer(self.settings.optimizer, self.parameters, self.settings.rate)

    def round(self, pools: Pools, number: int) -> dict[str, float]:
        """Train for one round; the mean of each term."""
        seed = self.settings.seed + 7919 * (number + 1)
        chance, generator = random.Random(seed), torch.Generator("cpu").manual_seed(seed)
        sums: dict[str, float] = {}
        for _ in range(self.settings.steps):
            self.optimizer.zero_grad(set_to_none=True)
            for name, value in self._terms(pools, chance, generator):
                sums[name] = sums.get(name, 0.0) + value / self.settings.steps
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
            zero_rows(self.student, self.neurons)
        return sums

    def _terms(self, pools: Pools, chance: random.Random, generator: torch.Generator) -> Any:
        yield "embedding", self._attacked(pools, False, chance, generator)
        if any(pools.outputs):
            yield "output", self._attacked(pools, True, chance, generator)
        yield "keep", self._kept(generator)

    def _attacked(
        self, pools: Pools, by_output: bool, chance: random.Random, generator: torch.Generator
    ) -> float:
        """Backward through one attacked term; its value."""
        memories, count = self.material.memories, self.settings.batch
        who = [chance.randrange(len(memories)) for _ in range(count)]
        latents = [self._latent(memories[place], chance) for place in who]
        noised, timesteps = self._noised(torch.stack(latents), generator)
        goal = self._goal(noised, timesteps, joined([memories[place].safe for place in who]))
        if not by_output:
            told = joined([self._embedding(pools, place, chance) for place in who])
            return self._backward(predicted(self.student, noised, timesteps, told), goal, 1.0)
        chosen = [chance.choice(pools.outputs[place]) for place in who]
        constants = {
            name: torch.cat([one[name] for one, _ in chosen])
            for name in text_attentions(self.student.denoiser)
        }
        with injected(self.student.denoiser, constants):
            said = predicted(self.student, noised, timesteps, joined([under for _, under in chosen]))
        return self._backward(said, goal, 1.0)

    def _embedding(self, pools: Pools, place: int, chance: random.Random) -> Conditioning:
        """One attacked embedding; of an unresolved memory also the prompt itself."""
        own = self.material.memories[place]
        return chance.choice([*pools.embeddings[place], *([] if own.resolved else [own.own])])

    def _latent(self, memory: Any, chance: random.Random) -> torch.Tensor:
        if chance.random() < self.settings.image_share:
            return memory.clean
        return memory.surrogates[chance.randrange(len(memory.surrogates))]

    def _kept(self, generator: torch.Generator) -> float:
        material, count = self.material, self.settings.batch
        places = torch.randint(len(material.kept_latents), (count,), generator=generator)
        noised, timesteps = self._noised(material.kept_latents[places], generator)
        silent = torch.rand(count, generator=generator) < EMPTY_SHARE
        device = material.kept.embeddings.device
        with_empty = material.kept.join(material.empty)
        told = with_empty.select(torch.where(silent, len(material.kept), places).to(device))
        goal = self._goal(noised, timesteps, told)
        return self._backward(predicted(self.student, noised, timesteps, told), goal, self.settings.keep)

    def _noised(self, latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        total, count = len(self.levels), len(latents)
        anywhere = torch.randint(total, (count,), generator=generator)
        noisy = torch.randint(int(NOISY_FROM * total), total, (count,), generator=generator)
        chosen = torch.rand(count, generator=generator) < self.settings.noisy_share
        timesteps = torch.where(chosen, noisy, anywhere)
        alpha = self.levels[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, timesteps

    @torch.no_grad()
    def _goal(self, noised: torch.Tensor, timesteps: torch.Tensor, told: Conditioning) -> torch.Tensor:
        return predicted(self.material.teacher, noised, timesteps, told)

    def _backward(self, said: torch.Tensor, goal: torch.Tensor, weight: float) -> float:
        loss = weight * (said - goal).square().mean()
        loss.backward()
        return float(loss.detach())


def make_optimizer(name: str, parameters: Sequence[torch.Tensor], rate: float) -> Any:
    """The optimizer that the settings name.

    Raises:
        UsageError: it needs a library that is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate)
    try:
        import bitsandbytes  # type: ignore[import-not-found]
    except ImportError:
        raise UsageError(
            "--optimizer adamw8bit", "needs bitsandbytes", 'pip install "surgery[adam8bit]", or adamw'
        ) from None
    return bitsandbytes.optim.AdamW8bit(parameters, lr=rate)
