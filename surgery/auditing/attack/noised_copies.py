"""Noised copies of an image and what a denoiser should say about them: the loss of every gradient attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from surgery.errors import SurgeryError
from surgery.model.pipeline import LiveModel


@dataclass(frozen=True)
class NoisedCopies:
    """The noised latents of one step, restart after restart: all [restarts * batch, ...], on the CPU.

    Attributes:
        noised: what the denoiser reads.
        wanted: what it should predict: noise, v or the clean latent, whichever the model predicts.
        timesteps: of each copy.
        restart: which restart each copy belongs to.
    """

    noised: torch.Tensor
    wanted: torch.Tensor
    timesteps: torch.Tensor
    restart: torch.Tensor


def noised_copies(
    model: LiveModel, clean: torch.Tensor, batch: int, generators: Sequence[torch.Generator]
) -> NoisedCopies:
    """Fresh copies of a scaled latent [channels, height, width], `batch` for each restart's generator.

    Args:
        clean: the latent, or one for each restart [restarts, channels, height, width].

    Raises:
        SurgeryError: see `signal_levels` and `prediction_type`.
    """
    levels, kind = signal_levels(model), prediction_type(model)
    total = len(levels)
    drawn = [
        (
            torch.randn((batch, *clean.shape[-3:]), generator=one),
            torch.randint(total, (batch,), generator=one),
        )
        for one in generators
    ]
    noise = torch.cat([pair[0] for pair in drawn])
    timesteps = torch.cat([pair[1] for pair in drawn])
    alpha = levels[timesteps].view(-1, 1, 1, 1)
    clean = clean.float().cpu()
    clean = clean.repeat_interleave(batch, 0) if clean.dim() == 4 else clean.expand_as(noise)
    wanted = {
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        "sample": clean,
    }[kind]
    noised = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    return NoisedCopies(noised, wanted, timesteps, torch.arange(len(generators)).repeat_interleave(batch))


def signal_levels(model: LiveModel) -> torch.Tensor:
    """The share of signal at every training timestep (alphas_cumprod): float32 [timesteps], on the CPU.

    Raises:
        SurgeryError: the scheduler has none (flow matching).
    """
    levels = getattr(model.pipeline.scheduler, "alphas_cumprod", None)
    if levels is None:
        raise SurgeryError(
            model.source,
            f"its scheduler ({type(model.pipeline.scheduler).__name__}) has no alphas_cumprod",
            "gradient attacks need a model that was trained with a noise schedule",
        )
    return torch.as_tensor(levels).float().cpu()


def prediction_type(model: LiveModel) -> str:
    """What the denoiser predicts: "epsilon", "v_prediction" or "sample".

    Raises:
        SurgeryError: anything else.
    """
    kind: str = getattr(model.pipeline.scheduler.config, "prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise SurgeryError(
            model.source, f"predicts {kind!r}", "only epsilon, v_prediction and sample are understood"
        )
    return kind


@contextmanager
def frozen(denoiser: Any) -> Iterator[None]:
    """Inside, the weights ask for no gradient, which saves half of the memory and of the work."""
    wanted = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
