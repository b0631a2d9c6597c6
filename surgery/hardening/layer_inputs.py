"""What layers read: the inputs of linear layers and convolutions, at some places of every state.

A convolution is linear in patches of its input, so that both kinds are the same thing: rows of numbers, of
which an output is a weighted sum. The bias is the weight of a further number, which is always 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from zlib import crc32

import torch

PLACES = 24  # of each state, at which a layer's inputs are looked at
MOST_INPUTS = 12_000  # layers with more are left: their squares no longer fit into memory


def understood(layer: Any) -> bool:
    """Whether a layer is linear in patches of its input, and of them not too many numbers."""
    if isinstance(layer, torch.nn.Conv2d):
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and not isinstance(layer.padding, str) and inputs_of(layer) <= MOST_INPUTS
    return isinstance(layer, torch.nn.Linear) and inputs_of(layer) <= MOST_INPUTS


def inputs_of(layer: Any) -> int:
    """How many numbers an output depends on; the bias counts as one."""
    return int(layer.weight[0].numel()) + (layer.bias is not None)


@contextmanager
def watched(layers: dict[str, Any], seen: dict[str, torch.Tensor], seed: int) -> Iterator[None]:
    """Inside, `seen` holds each layer's latest inputs at some places: [samples, places, inputs].

    Which places those are depends on the seed and on the layer's name alone.
    """
    places: dict[str, torch.Tensor] = {}

    def watch(name: str, layer: Any, arguments: Sequence[torch.Tensor], output: torch.Tensor) -> None:
        given = arguments[0].detach().float()
        convolution = isinstance(layer, torch.nn.Conv2d)
        count = output.shape[-2:].numel() if convolution else given[0].numel() // given.shape[-1]
        if name not in places:  # its own chance, whatever other layers are watched beside it
            own = torch.Generator("cpu").manual_seed(seed + crc32(name.encode()))
            places[name] = torch.randperm(count, generator=own)[:PLACES]
        if convolution:
            rows = patches(layer, given, places[name], output.shape[-1])
        else:
            rows = given.reshape(len(given), count, -1)[:, places[name].to(given.device)]
        if layer.bias is not None:
            rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
        seen[name] = rows

    handles = [layer.register_forward_hook(partial(watch, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def patches(layer: Any, given: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """What a convolution reads for some of its outputs, of rows of `width`: [samples, places, inputs]."""
    (high, wide), (down, across), (above, beside) = layer.kernel_size, layer.stride, layer.padding
    padded = torch.nn.functional.pad(given, (beside, beside, above, above))
    top, left = places // width * down, places % width * across
    rows = top[:, None, None] + torch.arange(high)[:, None]
    columns = left[:, None, None] + torch.arange(wide)
    index = (rows * padded.shape[-1] + columns).flatten().to(given.device)
    read = padded.flatten(2).index_select(2, index)  # [samples, channels, places * high * wide]
    return read.unflatten(2, (len(places), high * wide)).transpose(1, 2).flatten(2)
