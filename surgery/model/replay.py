"""Replay: blocks of the denoiser whose input cannot have changed are served from memory.

In a UNet the signal passes down blocks, mid block, up blocks, in that order. When only neurons from layer l
on are switched otherwise than in an earlier run over the same latents, prompt and timestep, every block
before the one that holds l gives what it gave then. `BlockRecorder` stores block outputs of chosen runs;
`BlockReplay` puts them in place of the blocks' `forward` for one run. Up blocks are always computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from surgery.model.value_layers import block_of
from surgery.neurons import NeuronSet

RUNS_KEPT = 2  # the unablated run and the initial set's: nearly every later run shares its first blocks


@dataclass(frozen=True)
class BlockReplay:
    """Stored outputs of the first blocks: block name -> nested tuples of tensors [samples, ...]."""

    outputs: dict[str, Any]

    def covers(self, layer: str) -> bool:
        """Whether the layer lies in a replayed block (and so never runs)."""
        return block_of(layer) in self.outputs

    def select(self, samples: slice) -> BlockReplay:
        """The stored outputs of some of the samples."""
        return BlockReplay(
            {name: _map(output, lambda one: one[samples]) for name, output in self.outputs.items()}
        )

    @contextmanager
    def applied(self, denoiser: torch.nn.Module) -> Iterator[None]:
        """Serve the stored outputs inside the `with` block."""
        replaced = []
        try:
            for name, output in self.outputs.items():
                block = denoiser.get_submodule(name)
                replaced.append(block)
                block.forward = _serving(output)
            yield
        finally:
            for block in replaced:
                del block.forward


class BlockRecorder:
    """Stores block outputs of chosen runs of one prompt on one set of latents.

    Without guidance only: there each sample of the batch is one latent.
    """

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.blocks = [f"down_blocks.{index}" for index in range(len(denoiser.down_blocks))]
        if getattr(denoiser, "mid_block", None) is not None:
            self.blocks.append("mid_block")
        self._runs: list[tuple[NeuronSet, dict[str, Any]]] = []

    @contextmanager
    def recording(self, neurons: NeuronSet, samples: int) -> Iterator[None]:
        """Store the outputs of the runs inside the `with` block, one after the other in sample order.

        Nothing is stored where the runs do not add up to `samples`: after an early stop, or after running out
        of memory half-way.
        """
        parts: dict[str, list[Any]] = {name: [] for name in self.blocks}
        handles = []
        try:
            for name in self.blocks:
                handles.append(self.denoiser.get_submodule(name).register_forward_hook(_storing(parts[name])))
            yield
        finally:
            for handle in handles:
                handle.remove()
        run = {name: _join(part) for name, part in parts.items() if part}
        if set(run) == set(self.blocks) and all(_samples(output) == samples for output in run.values()):
            self._runs = [*self._runs[: RUNS_KEPT - 1], (neurons, run)]

    def reorder(self, samples: torch.Tensor) -> None:
        """Keep the given samples of every stored run, in that order."""
        self._runs = [
            (
                neurons,
                {name: _map(output, lambda one: one[samples.to(one.device)]) for name, output in run.items()},
            )
            for neurons, run in self._runs
        ]

    def replay_for(self, neurons: NeuronSet, start: int, stop: int) -> BlockReplay | None:
        """The most blocks that stored runs can serve for samples start..stop, these neurons off."""
        best: dict[str, Any] = {}
        for known, run in self._runs:
            changed = {
                block_of(layer)
                for layer in {*known, *neurons}
                if known.get(layer, ()) != neurons.get(layer, ())
            }
            first = next(
                (index for index, name in enumerate(self.blocks) if name in changed), len(self.blocks)
            )
            if first > len(best):
                best = {name: run[name] for name in self.blocks[:first]}
        return BlockReplay(best).select(slice(start, stop)) if best else None


def _serving(output: Any) -> Any:
    def forward(*arguments: Any, **named: Any) -> Any:
        return output

    return forward


def _storing(part: list[Any]) -> Any:
    def hook(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        part.append(output)

    return hook


def _map(output: Any, change: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return change(output)
    return tuple(_map(one, change) for one in output)


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(parts)
    return tuple(_join(list(columns)) for columns in zip(*parts, strict=True))


def _samples(output: Any) -> int:
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output.shape[0]
