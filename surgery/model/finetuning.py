"""A short fine-tuning of a live denoiser in place: Adam on the mean squared error of noised latents.

What learns is a `surgery.model.learners.Learner`: the whole denoiser, or additions of low rank. Between any
two steps the model itself is as it was, bit for bit; `learner.applied()` shows what was learnt.

The rate of Adam. Every step moves each weight by about the rate, so that what a layer says moves by the
rate times the number of its inputs: a wide layer needs a smaller rate. `rate_for` scales the rate that was
found on the testbed (its attention layers read 64 numbers) with the inverse of the width. On SD1 (320 to
1280) that makes about 1e-4. It was not measured there; whoever compares images compares them at one rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from surgery.errors import SurgeryError
from surgery.model.conditioning import Conditioning
from surgery.model.learners import Learner, attention_projections
from surgery.model.pipeline import LiveModel

WHOLE_RATE = 1e-3  # of a denoiser whose attention layers are TESTBED_WIDTH wide
LOW_RANK_RATE = 1e-2
TESTBED_WIDTH = 64
HALF_PRECISION_SCALE = 1024.0  # keeps float16 gradients from vanishing; Adam does not see it


@dataclass(frozen=True)
class Samples:
    """What one step learns from: n noised latents, all on the CPU but the conditioning.

    Attributes:
        noised: what the denoiser reads [n, channels, height, width].
        wanted: what it should say, same shape.
        timesteps: [n].
        conditioning: of some captions.
        caption: [n], which of them each sample has.
    """

    noised: torch.Tensor
    wanted: torch.Tensor
    timesteps: torch.Tensor
    conditioning: Conditioning
    caption: torch.Tensor

    def __len__(self) -> int:
        return len(self.noised)


def rate_for(denoiser: Any, rate: float) -> float:
    """A rate that was found on the testbed, for a denoiser of other width; see the module."""
    widths = [layer.in_features for layer in attention_projections(denoiser).values()]
    return rate * TESTBED_WIDTH / median(widths) if widths else rate


class Finetuning:
    """Adam on what learns, step by step.

    Args:
        learner: what learns; the model itself is as it was between any two steps.
        rate: of Adam.
        chunk: the most samples in one pass; halved for good when memory runs out.
    """

    def __init__(self, model: LiveModel, learner: Learner, rate: float, chunk: int) -> None:
        self.model, self.learner, self.chunk = model, learner, chunk
        self.optimizer = torch.optim.Adam(learner.parameters, lr=rate)

    def step(self, samples: Samples) -> None:
        """One step on the mean squared error of the samples.

        Raises:
            SurgeryError: memory runs out for a single sample, or the gradient is not finite.
        """
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                with self.learner.applied(learning=True):
                    accumulate(self.model, samples, self.chunk)
                    self.learner.collect()
                break
            except torch.OutOfMemoryError:
                if self.chunk == 1:
                    raise SurgeryError(
                        "memory", "runs out for a single sample", "use another device"
                    ) from None
                self.chunk //= 2
        finish_gradients(self.model, self.learner.parameters)
        self.optimizer.step()
        self.learner.refresh()

    def forget_gradients(self) -> None:
        """Free the gradients and Adam's moments: nothing more will be learnt."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()


def accumulate(model: LiveModel, samples: Samples, chunk: int) -> None:
    """Add the gradient of the samples' mean squared error to all that asks for one, `chunk` at a time.

    In float16 the gradients are `HALF_PRECISION_SCALE` times too large until `finish_gradients`.
    """
    device, scale = model.device, _scale(model)
    for start in range(0, len(samples), chunk):
        taken = slice(start, start + chunk)
        caption = samples.caption[taken].to(device)
        with torch.enable_grad():
            chosen = samples.conditioning.select(caption)
            predicted = model.denoiser(
                samples.noised[taken].to(device, model.dtype),
                samples.timesteps[taken].to(device),
                encoder_hidden_states=chosen.embeddings.to(model.dtype),
                added_cond_kwargs=chosen.added or None,
                return_dict=False,
            )[0].float()
            error = (predicted - samples.wanted[taken].to(device)).square()
            loss = error.flatten(1).mean(1).sum() * (scale / len(samples))
        loss.backward()


def finish_gradients(model: LiveModel, parameters: Iterable[torch.Tensor]) -> None:
    """Bring the gradients of `accumulate` to their true size.

    Raises:
        SurgeryError: one is not finite.
    """
    scale = _scale(model)
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if scale != 1.0:
            parameter.grad.div_(scale)
        if not bool(torch.isfinite(parameter.grad).all()):
            raise SurgeryError(model.source, "the attack's gradient is not finite", "try --dtype float32")


def _scale(model: LiveModel) -> float:
    return HALF_PRECISION_SCALE if model.computes_in == torch.float16 else 1.0
