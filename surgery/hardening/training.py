"""Training: the student learns to say, whatever it is told, what the teacher says of a memory's prompt.

Each step adds up to three terms, each of them a weighted squared difference of predictions:

1. **embedding**: at the states of surrogates and of the noised image itself, told an attacked embedding;
2. **output**: the same, with constants added to the outputs of cross-attention: attacked ones, and the
   triggers, which need no attack (`surgery.hardening.triggers`);
3. **keep** (weighted): at the states of ordinary prompts, of neighbors and of the empty prompt, told these.

The teacher's own prediction is the goal everywhere, not the true noise: it varies less, so few steps suffice
and little else moves. The image itself is among the inputs because attacks descend on it: where the
student's prediction there no longer depends on what it is told, they have nothing to follow. Noisy timesteps
weigh more: pictures are decided there, and there a change of ordinary prompts shows. Zeroed rows stay zero.
The rate falls along each round, so that a round ends near what it found, not somewhere about it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.errors import SurgeryError, UsageError
from surgery.hardening.lessons import Lessons, ways_to
from surgery.hardening.material import Material, zero_rows
from surgery.hardening.pools import Pools, joined, trigger_of
from surgery.hardening.settings import HardenSettings
from surgery.hardening.sharing import Backward, Sharing, Term
from surgery.model.conditioning import Conditioning
from surgery.model.injection import injected, text_attentions
from surgery.model.pipeline import LiveModel
from surgery.neurons import NeuronSet

CLIP = 1.0  # largest norm of a gradient
LOWEST_RATE = 0.05  # of the rate, at the end of a round
GENTLE_RATE, GENTLE_KEEP = 0.5, 2.0  # times what the settings say
PATH_SHARE = 0.5  # of the samples that are not of the image: on the student's own paths under attack
BETAS = (0.9, 0.99)  # rounds are short: a mean over 1,000 steps would know none of them


@dataclass
class Trainer:
    """A student, its optimizer, and what it is trained on.

    Attributes:
        trained: names of the parameters that change.
        by_output: whether constants are trained against; the rung `closed` knows embeddings only.
        sharing: how several processes share the terms of a step.
    """

    student: LiveModel
    material: Material
    neurons: NeuronSet
    settings: HardenSettings
    trained: Sequence[str]
    by_output: bool = True
    sharing: Sharing = field(default_factory=Sharing)

    def __post_init__(self) -> None:
        chosen = set(self.trained)
        for name, parameter in self.student.denoiser.named_parameters():
            parameter.requires_grad_(name in chosen)
        self.parameters = [
            parameter for name, parameter in self.student.denoiser.named_parameters() if name in chosen
        ]
        self.optimizer = make_optimizer(self.settings.optimizer, self.parameters, self.settings.rate)
        self.widths = text_attentions(self.student.denoiser)

    def round(self, pools: Pools, number: int, gently: bool = False) -> dict[str, float]:
        """Train for one round; the mean of each term, none where the settings ask for no step.

        Args:
            gently: no image was found after the last round, but too much else has changed: keep more of it,
                at a lower rate.

        Raises:
            SurgeryError: the loss is no longer finite.
        """
        rate = self.settings.rate * (GENTLE_RATE if gently else 1.0)
        keep = self.settings.keep * (GENTLE_KEEP if gently else 1.0)
        chance = random.Random(self.settings.seed + 7919 * (number + 1))
        terms = partial(self._terms, pools, chance, keep)
        return self._train(terms, self.settings.steps, rate, self.optimizer)

    def repair(self, number: int) -> dict[str, float]:
        """Train on what must stay, and on nothing else, after layers were made blind and before new attacks.

        Blinding answers for each layer by itself, so its small errors add up along the denoiser.

        Raises:
            SurgeryError: the loss is no longer finite.
        """
        chance = random.Random(self.settings.seed + 7927 * (number + 1))
        rate = self.settings.repair_rate
        optimizer = make_optimizer(self.settings.optimizer, self.parameters, rate)

        def terms() -> list[Term]:
            halves = (self.settings.keep_batch + 1) // 2, self.settings.keep_batch // 2
            return [("repair", self._kept(chance, self.settings.keep, count)) for count in halves if count]

        return self._train(terms, self.settings.repair_steps, rate, optimizer)

    def _train(
        self, terms: Callable[[], list[Term]], steps: int, highest: float, optimizer: Any
    ) -> dict[str, float]:
        """Steps on the terms that each of them asks for, at a rate that falls; the mean of each term."""
        sums: dict[str, float] = {}
        mean = Averaged(self.parameters, steps, self.settings.averaged)
        for step in range(steps):
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = highest * (LOWEST_RATE + (1 - LOWEST_RATE) * share)
            optimizer.zero_grad(set_to_none=True)
            for name, value in self.sharing.values(terms(), self.parameters):
                sums[name] = sums.get(name, 0.0) + value / steps
            if not all(math.isfinite(value) for value in sums.values()):
                raise SurgeryError(self.student.source, "the loss of hardening is not finite", "lower --rate")
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            optimizer.step()
            zero_rows(self.student, self.neurons)
            mean.add(step)
        mean.put()
        return sums

    def _terms(self, pools: Pools, chance: random.Random, keep: float) -> list[Term]:
        """The terms of a step: all chance is taken here, before anything is asked of the denoiser."""
        terms: list[Term] = []
        memories = self.material.memories
        told = [place for place, one in enumerate(memories) if pools.embeddings[place] or one.leaks]
        if told:
            terms.append(("embedding", self._by_embedding(pools, told, chance)))
        armed = self.settings.trigger_share > 0
        held = [place for place in range(len(memories)) if pools.outputs[place] or armed]
        if held and self.by_output:
            terms.append(("output", self._by_output(pools, held, chance)))
        return [*terms, ("keep", self._kept(chance, keep, self.settings.keep_batch))]

    def _by_embedding(self, pools: Pools, places: Sequence[int], chance: random.Random) -> Backward:
        """The term `embedding`."""
        who = chance.choices(places, pools.shares(places), k=self.settings.batch)
        chosen = []
        for place in who:
            own = self.material.memories[place]
            known = [*pools.embeddings[place], *own.leaks]
            chosen.append(known[-1] if chance.random() < 0.5 else chance.choice(known))
        return partial(self._backward, *self._attacked(pools, who, chance), told=joined(chosen))

    def _by_output(self, pools: Pools, places: Sequence[int], chance: random.Random) -> Backward:
        """The term `output`."""
        who = chance.choices(places, pools.shares(places), k=self.settings.batch)
        chosen = []
        for place in who:
            own, known = self.material.memories[place], pools.outputs[place]
            if not known or chance.random() < self.settings.trigger_share:
                chosen.append(trigger_of(own, self.material, chance))
            else:
                chosen.append(known[-1] if chance.random() < 0.5 else chance.choice(known))
        constants = {name: torch.cat([one[name] for one, _ in chosen]) for name in self.widths}
        attacked = self._attacked(pools, who, chance)
        told = joined([under for _, under in chosen])

        def backward() -> float:
            with injected(self.student.denoiser, constants):
                return self._backward(*attacked, told=told)

        return backward

    def _attacked(
        self, pools: Pools, who: Sequence[int], chance: random.Random
    ) -> tuple[Lessons, torch.Tensor, torch.Tensor]:
        """A lesson of each memory listed, the weight of its error [n, 1, height or 1, width or 1], and the
        unit vector that leads from its answer to the image, as far as the image counts.
        """
        material, parts, weights = self.material, [], []
        for place in who:
            of_image = chance.random() < self.settings.image_share
            known = material.noised if of_image else material.surrogates
            if not of_image and pools.paths is not None and chance.random() < PATH_SHARE:
                known = pools.paths
            one = known.select(torch.tensor([chance.choice(known.places_of(place))]))
            mask = material.masks[place : place + 1] if of_image else torch.ones_like(material.masks[:1])
            parts.append(one)
            weights.append(mask * material.weights[one.timesteps].view(-1, 1, 1, 1) / len(who))
        lessons, masks = Lessons.joined(parts), material.masks[list(who)]
        clean = torch.stack([material.memories[place].clean for place in who])
        ways = (ways_to(self.student, lessons, clean) * masks).flatten(1)
        return lessons, torch.cat(weights), torch.nn.functional.normalize(ways)

    def _kept(self, chance: random.Random, weight: float, count: int) -> Backward:
        """A share of the term that all `keep_batch` samples make up: `count` of them."""
        kept = self.material.kept
        lessons = kept.select(torch.tensor([chance.randrange(len(kept)) for _ in range(count)]))
        told = self.material.told.select(lessons.prompts.to(self.material.told.embeddings.device))
        weights = self.material.weights[lessons.timesteps].view(-1, 1, 1, 1) * weight
        weights = weights / self.settings.keep_batch
        return partial(self._backward, lessons, weights, None, told)

    def _backward(
        self, lessons: Lessons, weights: torch.Tensor, ways: torch.Tensor | None, told: Conditioning
    ) -> float:
        """Add the gradient of a term to what is there; its value."""
        said = predicted(self.student, lessons.states, lessons.timesteps, told)
        error = said - lessons.wanted.to(said.device)
        weights = weights.to(said.device)
        loss = (error.square() * weights).flatten(1).mean(1).sum()
        if ways is not None and self.settings.focus:
            toward = (error.flatten(1) * ways.to(said.device)).sum(1).square() / ways.shape[1]
            loss = loss + self.settings.focus * (toward * weights.flatten(1).mean(1)).sum()
        loss.backward()
        return float(loss.detach())


class Averaged:
    """The mean of the weights over the last steps of a round, in their place when the round ends.

    A step of Adam moves every weight by about its rate, wherever it leads: most of what a short training
    changes elsewhere is that noise, and a mean over steps takes it out ("Averaging weights leads to wider
    optima", arXiv 1803.05407).
    """

    def __init__(self, parameters: Sequence[torch.Tensor], steps: int, share: float) -> None:
        """The last `share` of `steps` counts."""
        self.parameters = parameters
        self.first = steps - round(share * steps)
        self.count = 0
        self.means: list[torch.Tensor] = []

    @torch.no_grad()
    def add(self, step: int) -> None:
        """The weights after a step."""
        if step < self.first:
            return
        self.count += 1
        if not self.means:
            self.means = [parameter.detach().clone() for parameter in self.parameters]
        for mean, parameter in zip(self.means, self.parameters, strict=True):
            mean.lerp_(parameter, 1 / self.count)

    @torch.no_grad()
    def put(self) -> None:
        """The means become the weights."""
        for mean, parameter in zip(self.means, self.parameters, strict=False):
            parameter.copy_(mean)


def make_optimizer(name: str, parameters: Sequence[torch.Tensor], rate: float) -> Any:
    """The optimizer that the settings name.

    Raises:
        UsageError: it needs a library that is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=BETAS, weight_decay=0.0)
    try:
        import bitsandbytes  # type: ignore[import-not-found]
    except ImportError:
        raise UsageError(
            "--optimizer adamw8bit", "needs bitsandbytes", 'pip install "surgery[adam8bit]", or adamw'
        ) from None
    return bitsandbytes.optim.AdamW8bit(parameters, lr=rate, betas=BETAS, weight_decay=0.0)
