"""Ablation: neurons switched off for now, in memory, by forward hooks on the value layers.

`ablate` sets the listed outputs of a value layer to exactly zero by assigning into a copy. Multiplying by
zero would leave -0.0 and NaN behind; assignment gives bit for bit what a checkpoint with zeroed rows gives.
The hooks exist only inside the `with` block, whatever happens in it, and a layer that never ran is an error:
a hook on a layer that the model bypasses (fused projections, say) would otherwise pass for "no effect".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from surgery.errors import SurgeryError, UsageError
from surgery.neurons import NeuronSet

Hook = Callable[[torch.nn.Module, Any, torch.Tensor], torch.Tensor]


@contextmanager
def ablate(denoiser: torch.nn.Module, neurons: NeuronSet, factor: float = 0.0) -> Iterator[None]:
    """Switch neurons off inside the `with` block, for every sample of every batch.

    Args:
        denoiser: the module whose submodules the set names.
        neurons: layer name -> rows; rows index the last dimension of the layer's output, which is
            [batch, tokens, rows].
        factor: what the outputs are multiplied with; 0 (the default) assigns exact zeros.

    Raises:
        UsageError: the set names a layer that the denoiser lacks, or a row that the layer lacks.
        SurgeryError: on leaving, a listed layer never ran inside the block.
    """
    layers = {name: _checked_layer(denoiser, name, rows) for name, rows in neurons.items()}
    never_fired = set(layers)
    handles = []
    try:
        for name, layer in layers.items():
            index = torch.tensor(neurons[name], device=layer.weight.device)
            hook = _row_hook(index, factor, fired=partial(never_fired.discard, name))
            handles.append(layer.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if never_fired:
        raise SurgeryError(
            sorted(never_fired)[0],
            "never ran while its neurons were to be off",
            "the denoiser bypasses it (fused projections?), so nothing was ablated",
        )


def _checked_layer(denoiser: torch.nn.Module, name: str, rows: tuple[int, ...]) -> torch.nn.Linear:
    try:
        layer = denoiser.get_submodule(name)
    except AttributeError:
        raise UsageError(
            name, "the denoiser has no such layer", "were these neurons found in another model?"
        ) from None
    if not isinstance(layer, torch.nn.Linear):
        raise UsageError(name, "is not a linear layer", "name a value layer, ...attn2.to_v")
    if rows and max(rows) >= layer.out_features:
        raise UsageError(
            name, f"has {layer.out_features} rows, so there is no row {max(rows)}", "rows count from 0"
        )
    return layer


def _row_hook(index: torch.Tensor, factor: float, fired: Callable[[], None]) -> Hook:
    def hook(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        fired()
        output = output.clone()
        output[..., index] = output[..., index] * factor if factor else 0.0
        return output

    return hook
