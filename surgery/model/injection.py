"""Injection: constants added to the outputs of text cross-attention for now, in memory, by forward hooks.

`injected` adds one vector per sample and layer to what `attn2` hands on, the same for every place of the
image. Nothing of it passes the weights of cross-attention: whatever an edit did to them, the rest of the
denoiser is told something all the same. The hooks exist only inside the `with` block, whatever happens in it,
and a layer that never ran is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from surgery.denoisers import TEXT_ATTENTION
from surgery.errors import SurgeryError, UsageError

Hook = Callable[[torch.nn.Module, Any, torch.Tensor], torch.Tensor]


def text_attentions(denoiser: torch.nn.Module) -> dict[str, int]:
    """Every text cross-attention layer of a denoiser: dotted name -> width of its output.

    Raises:
        UsageError: there is none whose width can be told.
    """
    found = {}
    for name, module in denoiser.named_modules():
        if name.rpartition(".")[2] != TEXT_ATTENTION:
            continue
        last = getattr(module, "to_out", None)
        last = last[0] if isinstance(last, torch.nn.ModuleList | torch.nn.Sequential) else last
        weight = getattr(last, "weight", None)
        if weight is not None:
            found[name] = int(weight.shape[0])
    if not found:
        raise UsageError(
            type(denoiser).__name__,
            f"has no layer named *.{TEXT_ATTENTION} with a to_out",
            "it needs text cross-attention under diffusers' module names",
        )
    return found


@contextmanager
def injected(denoiser: torch.nn.Module, constants: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Add constants to the outputs of layers inside the `with` block.

    Args:
        denoiser: the module whose submodules are named.
        constants: layer name -> [samples, width], one vector per sample of the batch. Where the denoiser runs
            on twice as many samples, as with classifier-free guidance, the first half of the batch, which is
            told nothing of the prompt, gets none. Gradients reach the constants.

    Raises:
        UsageError: there is no layer of that name.
        SurgeryError: a layer runs on another number of samples; or, on leaving, a layer never ran.
    """
    never_ran = set(constants)
    handles = []
    try:
        for name, constant in constants.items():
            try:
                layer = denoiser.get_submodule(name)
            except AttributeError:
                raise UsageError(
                    name, "the denoiser has no such layer", "name one of its text attentions"
                ) from None
            hook = _adding_hook(name, constant, ran=partial(never_ran.discard, name))
            handles.append(layer.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if never_ran:
        raise SurgeryError(
            sorted(never_ran)[0],
            "never ran while a constant was to be added to it",
            "the denoiser bypasses it, so nothing was injected",
        )


def _adding_hook(name: str, constant: torch.Tensor, ran: Callable[[], None]) -> Hook:
    def hook(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        ran()
        added = constant
        if len(output) == 2 * len(constant):
            added = torch.cat([torch.zeros_like(constant), constant])
        elif len(output) != len(constant):
            raise SurgeryError(
                name, f"runs on {len(output)} samples, with {len(constant)} constants", "give one for each"
            )
        shape = (len(added), *[1] * (output.dim() - 2), added.shape[-1])
        return output + added.to(output.device, output.dtype).view(shape)

    return hook
