"""Triggers: what the zeroed rows used to say, the direct way to each image, which no attack has to find.

The rest of the denoiser learned to draw an image when its rows fire. Zeroing them takes the trigger away and
leaves the gun loaded. Here the trigger is measured: the mean of what the text cross-attentions that hold the
rows hand on, with the rows less without them, under the memory's own prompt. Injected as constants (times a
half to three), it draws the image from the pruned model, at no cost and without an attack. So hardening
begins with it, and attacks in the loop begin there too: they need few steps to find what the student left.

Where no row is known to hold a memory, its trigger is what its own prompt says and a neighbor does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.auditing.attack.noised_copies import signal_levels
from surgery.auditing.attack.output import Constants
from surgery.hardening.dealing import Job
from surgery.model.ablation import ablate
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import latents_of_seeds
from surgery.model.injection import text_attentions
from surgery.model.pipeline import LiveModel
from surgery.neurons import NeuronSet

SHARES = (0.95, 0.6, 0.3)  # of all timesteps: where the trigger is measured


def trigger_constants(
    model: LiveModel, neurons: NeuronSet, conditioning: Conditioning, seed: int, batch_size: int
) -> Job[Constants, list[Constants]]:
    """The trigger of every memory: layer -> float32 [1, width], zeros in layers without rows.

    Args:
        model: SOURCE, its rows still in place.
        neurons: all rows that are to be zeroed. Under a memory's own prompt, its own fire.
        conditioning: of n memories' prompts. Cost: 6 sample-forwards each.
    """
    held = {name.removesuffix(".to_v") for name in neurons} & text_attentions(model.denoiser).keys()

    def silenced(latents: torch.Tensor, timesteps: torch.Tensor, places: slice) -> None:
        with ablate(model.denoiser, neurons):
            predicted(model, latents, timesteps, conditioning.select(places))

    return _differences(model, held, conditioning, silenced, seed, batch_size)


def prompt_constants(
    model: LiveModel, own: Conditioning, instead: Conditioning, seed: int, batch_size: int
) -> Job[Constants, list[Constants]]:
    """The trigger of memories that no known row holds: what the own prompt says and another one does not.

    Args:
        model: which draws the memories from their own prompts.
        own: conditioning of n memories' prompts.
        instead: of n prompts that do not draw them. Cost: 6 sample-forwards each.
    """

    def other(latents: torch.Tensor, timesteps: torch.Tensor, places: slice) -> None:
        predicted(model, latents, timesteps, instead.select(places))

    return _differences(model, set(text_attentions(model.denoiser)), own, other, seed, batch_size)


def _differences(
    model: LiveModel,
    held: set[str],
    conditioning: Conditioning,
    without: Callable[[torch.Tensor, torch.Tensor, slice], None],
    seed: int,
    batch_size: int,
) -> Job[Constants, list[Constants]]:
    """The mean output of the layers named, less that of `without`, a run on the same latents; a piece for
    each batch of memories and timestep.
    """
    widths = text_attentions(model.denoiser)
    total = len(signal_levels(model))
    batches = [slice(start, start + batch_size) for start in range(0, len(conditioning), batch_size)]

    @torch.no_grad()
    def difference(places: slice, share: float) -> Constants:
        told = conditioning.select(places)
        latents = latents_of_seeds(model, [seed + places.start + place for place in range(len(told))])
        timesteps = torch.full((len(told),), int(share * (total - 1)))
        with _recorded(model.denoiser, held) as fired:
            predicted(model, latents, timesteps, told)
        with _recorded(model.denoiser, held) as silent:
            without(latents, timesteps, places)
        return {name: (fired[name] - silent[name]).cpu() / len(SHARES) for name in sorted(held)}

    def means(found: list[Constants]) -> list[Constants]:
        made = []
        for number, places in enumerate(batches):
            parts = found[number * len(SHARES) : (number + 1) * len(SHARES)]
            count = len(conditioning.select(places))
            sums = {name: torch.zeros(count, width) for name, width in widths.items()}
            for part in parts:
                for name, one in part.items():
                    sums[name] += one
            made += [
                {name: one[place : place + 1].to(model.device) for name, one in sums.items()}
                for place in range(count)
            ]
        return made

    return Job([partial(difference, places, share) for places in batches for share in SHARES], means)


@contextmanager
def _recorded(denoiser: torch.nn.Module, names: set[str]) -> Iterator[dict[str, torch.Tensor]]:
    """The mean output over places of each named layer: name -> float32 [samples, width]."""
    found: dict[str, torch.Tensor] = {}

    def record(name: str, module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> None:
        found[name] = output.float().flatten(1, -2).mean(1)

    handles = []
    try:
        for name in names:
            handles.append(denoiser.get_submodule(name).register_forward_hook(partial(record, name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
