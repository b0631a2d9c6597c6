"""Gradient attacks that leave the weights alone: the steps, and what such attacks have in common.

1. Each step draws fresh noise and timesteps for the training image's latent, takes the ordinary denoising
   loss (against noise, v or the clean latent, whichever the model predicts), and moves what is learned with
   Adam.
2. At the points of the curve, pictures are drawn from what was learned so far, at several guidances.

All restarts of one image run side by side. Noise comes from one CPU generator per restart, so neither device
nor batch size changes the course of the attack beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from surgery.auditing.attack.conditioned import smaller
from surgery.auditing.attack.noised_copies import NoisedCopies, frozen, noised_copies
from surgery.auditing.attack.pictures import forwards_of_a_point
from surgery.auditing.attack.protocol import Attack, Target
from surgery.auditing.drawing import Drawing
from surgery.errors import SurgeryError
from surgery.model.pipeline import LiveModel

# What an attack of so many steps stands for. With less in each step, or pictures drawn without guidance, it
# may be blind (docs/audit.md), and `removed` must not rest on it.
FULL_BATCH = 8
FULL_GUIDANCE = 3.0
RATE_TOLERANCE = 3.0  # a factor either way
HALF_PRECISION_SCALE = 1024.0  # keeps float16 gradients from vanishing; Adam does not see it

# (noised latents, timesteps, restart of each) [n, ...] -> the denoiser's prediction, float32 of that shape
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class DescentAttack(Attack):
    """An attack that learns something the denoiser is told; a variant is a start and a guidance.

    Attributes:
        curve: after how many steps pictures are drawn, rising; the last is the length of the attack.
        starts: one word per restart.
        learning_rate: of Adam.
        batch: noised copies of the training image per step and restart.
        drawings: how pictures are drawn, one for each guidance.
        batch_size: the most samples in one UNet call of a gradient step; halved when memory runs out.
        full_rate: the learning rate that its budget stands for.
    """

    curve: tuple[int, ...]
    starts: tuple[str, ...]
    learning_rate: float
    batch: int
    drawings: tuple[Drawing, ...]
    batch_size: int
    full_rate: ClassVar[float]

    @property
    def effort(self) -> int:
        """The length of the attack in steps."""
        return self.curve[-1]

    @property
    def shortfall(self) -> str:
        """A smaller batch, another learning rate, or no guidance among the drawings."""
        if self.batch < FULL_BATCH:
            return f"{self.batch} noised copies per step, not {FULL_BATCH}"
        if not self.full_rate / RATE_TOLERANCE <= self.learning_rate <= self.full_rate * RATE_TOLERANCE:
            return f"a learning rate of {self.learning_rate:g}, not {self.full_rate:g}"
        if max(drawing.guidance for drawing in self.drawings) < FULL_GUIDANCE:
            return f"no pictures at guidance {FULL_GUIDANCE:g}"
        return ""

    def variants(self, target: Target) -> tuple[str, ...]:
        """Every start at every guidance."""
        return tuple(
            f"{start}, guidance {drawing.guidance:g}" for start in self.starts for drawing in self.drawings
        )

    def cost(self) -> int:
        """Gradient steps (the way back is not counted), and the pictures of every point under one mask."""
        drawn = len(self.curve) * forwards_of_a_point(
            self.drawings * len(self.starts), len(self.selection_seeds), len(self.scored_seeds)
        )
        return len(self.starts) * self.effort * self.batch + drawn

    def seeds(self, target: Target) -> list[int]:
        """Of the restarts' chance."""
        return [target.seed + restart for restart in range(len(self.starts))]


def descend(
    model: LiveModel,
    clean: torch.Tensor,
    learned: Sequence[torch.Tensor],
    predict: Predict,
    attack: DescentAttack,
    seeds: Sequence[int],
) -> Iterator[int]:
    """Move `learned` (float32, in place) toward what makes the model denoise an image well.

    Args:
        clean: the image's scaled latent [channels, height, width], or one for each restart.
        learned: tensors [restarts, ...].
        seeds: one per restart, of its noise and timesteps.

    Yields:
        The steps made so far, at each point of the curve; the tensors go on changing afterward.

    Raises:
        SurgeryError: memory runs out for a single sample, or a gradient is not finite.
    """
    for tensor in learned:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(learned, lr=attack.learning_rate)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    chunk = attack.batch_size
    for step in range(attack.effort + 1):
        if step in attack.curve:
            yield step
        if step == attack.effort:
            return
        samples = noised_copies(model, clean, attack.batch, generators)
        while True:
            try:
                optimizer.zero_grad(set_to_none=True)
                with frozen(model.denoiser):
                    _accumulate_gradient(model, learned, predict, samples, chunk, attack.batch)
                break
            except torch.OutOfMemoryError:
                chunk = smaller(chunk)
        for tensor in learned:
            if tensor.grad is None or not bool(torch.isfinite(tensor.grad).all()):
                raise SurgeryError(model.source, "the attack's gradient is not finite", "try --dtype float32")
        optimizer.step()


def _accumulate_gradient(
    model: LiveModel,
    learned: Sequence[torch.Tensor],
    predict: Predict,
    samples: NoisedCopies,
    chunk: int,
    batch: int,
) -> None:
    """Add the gradient of every restart's mean loss to what is learned, `chunk` samples at a time."""
    scale = HALF_PRECISION_SCALE if model.computes_in == torch.float16 else 1.0
    device = model.device
    for start in range(0, len(samples.restart), chunk):
        taken = slice(start, start + chunk)
        with torch.enable_grad():
            noise = predict(
                samples.noised[taken], samples.timesteps[taken], samples.restart[taken].to(device)
            )
            error = (noise - samples.wanted[taken].to(device)).square()
            loss = error.flatten(1).mean(1).sum() * (scale / batch)
        loss.backward()
    for tensor in learned:
        if scale != 1.0 and tensor.grad is not None:
            tensor.grad.div_(scale)
