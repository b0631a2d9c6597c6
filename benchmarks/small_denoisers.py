"""How to build a small random denoiser, call it with a prompt, and measure what the prompt does to it.

Its inputs come in two parts: what the prompt decides, drawn anew for every prompt, and the rest. The families
are listed in `small_families.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Draw = Callable[..., torch.Tensor]  # numbers of a shape, from one generator
Inputs = Callable[[Draw], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SmallDenoiser:
    """How to build and call a denoiser.

    Attributes:
        kind: its class in diffusers.
        settings: its settings.
        shared: its inputs that no prompt decides.
        text: its inputs that the prompt decides.
    """

    kind: str
    settings: Mapping[str, Any]
    shared: Inputs
    text: Inputs

    def build(self) -> Any:
        """The model; gates that training starts at zero are opened, so that every path carries something."""
        import diffusers

        torch.manual_seed(0)
        model = getattr(diffusers, self.kind)(**self.settings).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name == "pad_token" or not bool(torch.isfinite(parameter).all() and parameter.any()):
                    parameter.normal_(std=0.3)
        return model

    @torch.no_grad()
    def prompt_effect(self, model: torch.nn.Module) -> float:
        """How far the output moves from one prompt to another, relative to its size."""
        first, second = (self._output(model, prompt) for prompt in (1, 2))
        return float((first - second).norm() / first.norm())

    def _output(self, model: torch.nn.Module, prompt: int) -> torch.Tensor:
        inputs = {**self.shared(_drawn_from(0)), **self.text(_drawn_from(prompt))}
        return model(**inputs, return_dict=False)[0]


def zero_value_layers(model: torch.nn.Module) -> int:
    """Zero every row of every `attn2.to_v`, biases too; returns how many layers that were."""
    layers = [module for name, module in model.named_modules() if name.endswith("attn2.to_v")]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.zero_()
    return len(layers)


def _drawn_from(seed: int) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)
