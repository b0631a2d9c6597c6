"""Ablation: neurons switched off for now, in memory, by forward hooks on the value layers.

`ablate` sets the listed outputs of a value layer to exactly zero by assigning into a copy. Multiplying by
zero would leave -0.0 and NaN behind; assignment gives bit for bit what a checkpoint with zeroed rows gives.
The hooks exist only inside the `with` block, whatever happens in it, and a layer that never ran is an error:
a hook on a layer that the model bypasses (fused projections, say) would otherwise pass for "no effect".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from surgery.errors import SurgeryError, UsageError
from surgery.neurons import NeuronSet

Hook = Callable[[torch.nn.Module, Any, torch.Tensor], torch.Tensor]


@contextmanager
def ablate(denoiser: torch.nn.Module, neurons: NeuronSet, factor: float = 0.0) -> Iterator[None]:
    """Switch neurons off inside the `with` block, for every sample of every batch.

    Args: denoiser: the module whose submodules the set names. neurons: layer name -> rows; rows index the
        last dimension of the layer's output [batch, tokens, rows]. factor: what the outputs are multiplied
        with; 0 (the default) assigns exact zeros.

    Raises:
        UsageError: the set names a layer that the denoiser lacks, or a row that the layer lacks.
        SurgeryError: on leaving, a listed layer never ran inside the block.
    """
    hooks = {}
    for layer, rows in neurons.items():
        index = torch.tensor(rows, device=_checked_layer(denoiser, layer, rows).weight.device)
        hooks[layer] = _row_hook(index, factor)
    with _hooked(denoiser, hooks):
        yield


@contextmanager
def ablate_each(
    denoiser: torch.nn.Module, masks: Mapping[str, torch.Tensor], factor: float = 0.0
) -> Iterator[None]:
    """Switch off other neurons in each sample of a batch.

    Args:
        denoiser: the module whose submodules the masks name.
        masks: layer name -> boolean tensor [batch, rows], true where a sample's neuron is off.
        factor: as in `ablate`.

    Raises:
        UsageError, SurgeryError: as in `ablate`.
    """
    hooks = {layer: _mask_hook(mask, factor) for layer, mask in masks.items()}
    for layer in masks:
        _checked_layer(denoiser, layer, ())
    with _hooked(denoiser, hooks):
        yield


def neuron_mask(
    denoiser: torch.nn.Module, sets: list[NeuronSet], layers: list[str] | None = None
) -> dict[str, torch.Tensor]:
    """One boolean mask [len(sets), rows] for every layer that any of the sets names (or for `layers` of
    them).
    """
    names = sorted({layer for neurons in sets for layer in neurons})
    masks = {}
    for name in names:
        if layers is not None and name not in layers:
            continue
        rows_named = [neurons.get(name, ()) for neurons in sets]
        weight = _checked_layer(denoiser, name, [row for rows in rows_named for row in rows]).weight
        mask = torch.zeros(len(sets), weight.shape[0], dtype=torch.bool)
        for sample, rows in enumerate(rows_named):
            mask[sample, list(rows)] = True
        masks[name] = mask.to(weight.device)
    return masks


def _checked_layer(denoiser: torch.nn.Module, name: str, rows: Any) -> torch.nn.Linear:
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


def _row_hook(index: torch.Tensor, factor: float) -> Hook:
    def hook(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., index] = output[..., index] * factor if factor else 0.0
        return output

    return hook


def _mask_hook(mask: torch.Tensor, factor: float) -> Hook:
    def hook(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        # [batch, rows] -> [batch, 1, rows]: off for every token of the sample
        wide = mask.view(mask.shape[0], *([1] * (output.ndim - 2)), mask.shape[1])
        return torch.where(wide, output * factor, output) if factor else output.masked_fill(wide, 0.0)

    return hook


@contextmanager
def _hooked(denoiser: torch.nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    never_fired = set(hooks)
    handles = []
    try:
        for layer, hook in hooks.items():
            module = denoiser.get_submodule(layer)

            def fired(module: Any, arguments: Any, output: Any, layer: str = layer, hook: Hook = hook) -> Any:
                never_fired.discard(layer)
                return hook(module, arguments, output)

            handles.append(module.register_forward_hook(fired))
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
