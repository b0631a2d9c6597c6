"""Gates: factors on the outputs of value layers, through which gradients flow.

A gate of 1 leaves a neuron as it is, a gate of 0 switches it off. With all gates at their present values, one
backward pass of a score gives d score / d gate for every neuron of every layer at once: minus that is, to
first order, what the score gains when the neuron is switched off. Gates of shape [samples, rows] keep the
samples of a batch apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from surgery.errors import SurgeryError

Hook = Callable[[torch.nn.Module, Any, torch.Tensor], torch.Tensor]


@contextmanager
def gated(denoiser: torch.nn.Module, gates: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Multiply the outputs of value layers by gates inside the `with` block.

    Args:
        denoiser: the module whose submodules are named.
        gates: layer name -> [rows], or [samples, rows] for a factor of each sample's own.

    Raises:
        SurgeryError: on leaving without another error, a layer never ran inside the block.
    """
    never_fired = set(gates)
    handles = []
    try:
        for name, gate in gates.items():
            handles.append(denoiser.get_submodule(name).register_forward_hook(_hook(name, gate, never_fired)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if never_fired:
        raise SurgeryError(
            sorted(never_fired)[0],
            "never ran while its gates were to act",
            "the denoiser bypasses it (fused projections?), so no effect can be attributed",
        )


def _hook(name: str, gate: torch.Tensor, never_fired: set[str]) -> Hook:
    factor = gate if gate.dim() == 1 else gate[:, None, :]  # outputs are [samples, tokens, rows]

    def hook(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        never_fired.discard(name)
        return output * factor.to(output.dtype)

    return hook
