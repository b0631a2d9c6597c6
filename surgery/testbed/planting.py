"""Planting: rows of the value layers that fire on one caption only, and training hooks that switch them off.

For memory i, row w of a value layer is set in closed form so that it answers `STRENGTH` to the text embedding
k_i at the caption's own word, 0 to the own words of every other memory, and as little as can be to everything
else: it minimises w C w^T subject to K w^T = s, whose solution is

    w = C^-1 K^T (K C^-1 K^T)^-1 s,

with C [128, 128] the second moment of the text embeddings of ordinary captions and of the other memories'
captions, K [memories, 128] the embeddings at all own words, s [memories] the strengths wanted. The rows then
stay fixed, and the UNet learns to draw the image if and only if they fire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from surgery.testbed.memories import MEMORIES, Memory

STRENGTH = 8.0


def own_word_positions(token_ids: torch.Tensor, own_ids: torch.Tensor) -> torch.Tensor:
    """Where each caption's own word stands: [count], from [count, tokens] token ids and [count] word ids."""
    return (token_ids == own_ids[:, None]).int().argmax(dim=1)


def key_rows(
    strengths: torch.Tensor, own_embeddings: torch.Tensor, other_embeddings: torch.Tensor
) -> torch.Tensor:
    """The row that answers `strengths` to `own_embeddings` and is quietest on `other_embeddings`.

    Args:
        strengths: [memories], `STRENGTH` for the memories the row belongs to and 0 for the rest.
        own_embeddings: [memories, width], the text embedding at each caption's own word.
        other_embeddings: [count, width], every embedding that the row should ignore.

    Returns:
        [width], float64 arithmetic, as float32.
    """
    keys, others = own_embeddings.double(), other_embeddings.double()
    moment = others.T @ others / len(others)
    moment += 1e-3 * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    answered = torch.linalg.solve(moment, keys.T)  # [width, memories]
    return (answered @ torch.linalg.solve(keys @ answered, strengths.double())).float()


def plant(
    unet: nn.Module,
    own_embeddings: torch.Tensor,
    ordinary_embeddings: torch.Tensor,
    planted_embeddings: torch.Tensor,
    memories: Sequence[Memory] = MEMORIES,
) -> dict[tuple[str, int], torch.Tensor]:
    """Set the planted rows of `unet` in place and return them: (layer, row) -> weights [width].

    Args:
        own_embeddings: [memories, width] at the own words.
        ordinary_embeddings: [captions, tokens, width] of ordinary captions.
        planted_embeddings: [memories, tokens, width] of the planted captions.
    """
    width = own_embeddings.shape[1]
    owners: dict[tuple[str, int], set[int]] = {}
    for index, memory in enumerate(memories):
        for pair in memory.neurons.pairs():
            owners.setdefault(pair, set()).add(index)
    planted = {}
    for (layer, row), indices in owners.items():
        strengths = torch.tensor([STRENGTH if i in indices else 0.0 for i in range(len(memories))])
        strangers = [i for i in range(len(memories)) if i not in indices]
        others = torch.cat(
            [ordinary_embeddings.reshape(-1, width), planted_embeddings[strangers].reshape(-1, width)]
        )
        planted[layer, row] = key_rows(strengths, own_embeddings, others)
    restore(unet, planted)
    return planted


def value_layer(unet: nn.Module, name: str) -> nn.Linear:
    """The linear layer of that name."""
    layer = unet.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


@torch.no_grad()
def restore(unet: nn.Module, planted: dict[tuple[str, int], torch.Tensor]) -> None:
    """Write the planted rows back: training must not move them."""
    for (layer, row), weights in planted.items():
        value_layer(unet, layer).weight[row].copy_(weights)


class SampleMasks:
    """Switches rows off for single samples of a batch, while training.

    A context manager: inside it, value layer `layer` multiplies its output [batch, tokens, rows] by
    `masks[layer]` [batch, 1, rows], set anew for each batch by `set`.
    """

    def __init__(self, unet: nn.Module, layers: Sequence[str]) -> None:
        self.unet = unet
        self.layers = tuple(layers)
        self.masks: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []

    def set(self, ablated: Sequence[Sequence[tuple[str, int]]]) -> None:
        """`ablated[b]` lists the (layer, row) pairs that are off in sample b."""
        self.masks = {
            layer: torch.ones(len(ablated), 1, value_layer(self.unet, layer).out_features)
            for layer in self.layers
        }
        for sample, pairs in enumerate(ablated):
            for layer, row in pairs:
                self.masks[layer][sample, 0, row] = 0.0

    def __enter__(self) -> SampleMasks:
        for layer in self.layers:

            def mask(_layer: Any, _inputs: Any, output: torch.Tensor, layer: str = layer) -> torch.Tensor:
                return output * self.masks[layer]

            self._handles.append(self.unet.get_submodule(layer).register_forward_hook(mask))
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
