"""What learns in a short fine-tuning: learnt weights lie beside the model's own, which come to no harm.

- `WholeDenoiser`: a second copy of every weight learns. The copy takes the place of the model's own weights
  only while `applied()` is open. The two sets exchange storages, no number is copied, so that the model is
  given back bit for bit, also when something fails inside.
- `LowRank`: the attention projections get an addition of rank 4 (LoRA): y + B A x, with B zero at first. It
  is a hook on the layer; the weights are not touched.

Both learn in float32, whatever the model's own number type is.

Memory: `WholeDenoiser` takes one more copy of the denoiser, and three more while it learns (gradients and
Adam's two moments); for a model in half precision, a float32 copy besides. `LowRank` takes about 1 % of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from surgery.errors import UsageError

RANK = 4
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class Learner(Protocol):
    """What learns.

    Attributes:
        parameters: float32 leaves that Adam moves; their `grad` is filled by `collect`.
    """

    parameters: list[torch.Tensor]

    def applied(self, learning: bool = False) -> Any:
        """A context manager: inside, the model runs with what was learnt; after it, as it was before."""

    def collect(self) -> None:
        """Put the gradients of the last passes into the parameters' `grad`; called inside `applied`."""

    def refresh(self) -> None:
        """Take over parameters that have moved."""


class WholeDenoiser:
    """Every weight of a denoiser learns, in a copy; see the module.

    Raises:
        UsageError: the weights are not in memory (sequential offloading).
    """

    def __init__(self, denoiser: Any) -> None:
        self._own: list[torch.Tensor] = list(denoiser.parameters())
        _refuse_absent(denoiser)
        self._learnt = [parameter.detach().clone() for parameter in self._own]
        self.parameters = [
            (one if one.dtype == torch.float32 else one.float()).requires_grad_(one.is_floating_point())
            for one in self._learnt
        ]

    @contextmanager
    def applied(self, learning: bool = False) -> Iterator[None]:
        """Exchange the learnt weights for the model's own."""
        # The gradients that a user's model holds are not ours to lose.
        kept = [(one.requires_grad, one.grad) for one in self._own]
        self._exchange()
        try:
            for one in self._own:
                one.grad = None
                one.requires_grad_(learning and one.is_floating_point())
            yield
        finally:
            self._exchange()
            for one, (asks, gradient) in zip(self._own, kept, strict=True):
                one.grad = None
                one.requires_grad_(asks)
                one.grad = gradient

    def collect(self) -> None:
        """See `Learner.collect`."""
        for parameter, own in zip(self.parameters, self._own, strict=True):
            # a weight that no sample reached has none, and Adam leaves it alone
            parameter.grad = None if own.grad is None else own.grad.to(parameter.device, torch.float32)
            own.grad = None

    def refresh(self) -> None:
        """See `Learner.refresh`."""
        for parameter, learnt in zip(self.parameters, self._learnt, strict=True):
            if learnt.data_ptr() != parameter.data_ptr():
                learnt.copy_(parameter.detach())

    def keep(self) -> None:
        """Leave the learnt weights in the model for good; the learner is of no use any more."""
        self._exchange()

    def _exchange(self) -> None:
        for place, own in enumerate(self._own):
            own.data, self._learnt[place] = self._learnt[place].detach(), own.data


class LowRank:
    """Additions of rank `RANK` to every attention projection learn (LoRA); see the module.

    Args:
        seed: of the random half of the additions.

    Raises:
        UsageError: the weights are not in memory, or no attention projection is a plain linear layer.
    """

    def __init__(self, denoiser: Any, seed: int, rank: int = RANK) -> None:
        _refuse_absent(denoiser)
        self._denoiser = denoiser
        generator = torch.Generator("cpu").manual_seed(seed)
        self.parameters: list[torch.Tensor] = []
        self._layers: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
        for layer in attention_projections(denoiser).values():
            inward = torch.randn((rank, layer.in_features), generator=generator) / layer.in_features**0.5
            inward = inward.to(layer.weight.device).requires_grad_(True)
            outward = torch.zeros((layer.out_features, rank), device=layer.weight.device, requires_grad=True)
            self._layers.append((layer, inward, outward))
            self.parameters += [inward, outward]
        if not self._layers:
            raise UsageError(
                type(denoiser).__name__, "has no plain attention projection", "learn the whole denoiser"
            )

    @contextmanager
    def applied(self, learning: bool = False) -> Iterator[None]:
        """Hang the additions onto their layers."""
        handles = []
        try:
            for layer, inward, outward in self._layers:
                handles.append(layer.register_forward_hook(_addition(inward, outward)))
            with asking(self._denoiser, False):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def collect(self) -> None:
        """Nothing to do: the passes fill the gradients of the additions themselves."""

    def refresh(self) -> None:
        """Nothing to do: the hooks read the additions themselves."""


def attention_projections(denoiser: Any) -> dict[str, torch.nn.Linear]:
    """The query, key, value and output projections of every attention layer, by dotted name."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(f".{one}" for one in PROJECTIONS))
    }


@contextmanager
def asking(denoiser: Any, wanted: bool) -> Iterator[None]:
    """Inside, every weight asks for a gradient, or none does; after it, as before."""
    before = [(parameter, parameter.requires_grad) for parameter in denoiser.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(wanted and parameter.is_floating_point())
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)


@contextmanager
def exchanged(pairs: Sequence[tuple[torch.nn.Parameter, torch.Tensor]]) -> Iterator[None]:
    """Inside, each parameter holds the tensor beside it; after it, its own storage again, bit for bit."""
    own = [(parameter, parameter.data) for parameter, _ in pairs]
    try:
        for parameter, other in pairs:
            parameter.data = other.detach().to(parameter.device, parameter.dtype)
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def _addition(inward: torch.Tensor, outward: torch.Tensor) -> Any:
    def add(layer: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        addition = (arguments[0].to(inward.dtype) @ inward.T) @ outward.T
        return output + addition.to(output.dtype)

    return add


def _refuse_absent(denoiser: Any) -> None:
    if any(parameter.device.type == "meta" for parameter in denoiser.parameters()):
        raise UsageError(
            type(denoiser).__name__,
            "its weights are not in memory (sequential offloading)",
            "fine-tuning attacks need them: load the pipeline without offloading",
        )
