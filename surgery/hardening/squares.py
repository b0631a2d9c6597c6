"""Squares: what the solve of one layer is made of, gathered state by state.

For weights W and rows x, x* of inputs (`surgery.hardening.blinding` says why) a solve needs two matrices:

    S = C + g A     [inputs, inputs], of which the upper triangle says all, for it is symmetric
    T = g W D       [outputs, inputs]; or g D where that is the smaller work, and W comes later

Both are sums over states of products of rows. S is kept in strips, the rows from a diagonal element to some
further on: that is little more than half of the products of a whole square. All numbers of a layer lie one
after another in one buffer, which can be added to another's and sent.

Sums of many states are made up of parts, and the parts meet in pairs (`fold`): ((0 + 1) + (2 + 3)). Whoever
made which part, the sums are the same, bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch

from surgery.hardening.layer_inputs import inputs_of

STRIP = 128  # rows of a strip; wider ones waste products, narrower ones are slow


class Squares:
    """The sums of one layer.

    Attributes:
        numbers: all of them, float32, one after another.
        strips: views of the upper triangle of S, each [rows of the strip, columns from its first one on].
        shift: a view of T.
    """

    def __init__(self, layer: Any, numbers: torch.Tensor | None = None) -> None:
        """Nothing seen yet; or numbers that another process sent."""
        self.layer = layer
        shapes = _shapes(layer)
        sizes = [rows * columns for rows, columns in shapes]
        self.numbers = torch.zeros(sum(sizes), device=layer.weight.device) if numbers is None else numbers
        parts = self.numbers.split(sizes)
        *self.strips, self.shift = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))

    @classmethod
    def bytes_of(cls, layer: Any) -> int:
        """How large the sums of a layer are."""
        return sum(4 * rows * columns for rows, columns in _shapes(layer))

    def add_seen(self, rows: torch.Tensor, weights: torch.Tensor) -> None:
        """Add states to S.

        Args:
            rows: of inputs, float32 [samples, places, inputs]; the places of a sample share its weight.
            weights: of the samples [samples].
        """
        flat, scaled = rows.flatten(0, 1), _scaled(rows, weights)
        for number, strip in enumerate(self.strips):
            start = number * STRIP
            strip.addmm_(scaled[:, start : start + STRIP].T, flat[:, start:])

    def add_shift(self, rows: torch.Tensor, without: torch.Tensor, weights: torch.Tensor) -> None:
        """Add states to T; `rows` under attack and `without`, as in `add_seen`."""
        difference = _scaled(rows - without, weights)
        if _spoken(self.layer):
            weight = self.layer.weight.float().flatten(1)
            difference = difference[:, : weight.shape[1]] @ weight.T  # a bias reads 1 - 1
        self.shift.addmm_(difference.T, rows.flatten(0, 1))

    def system(self, like: torch.Tensor) -> torch.Tensor:
        """S, of the type and on the device of another tensor [inputs, inputs]."""
        inputs = inputs_of(self.layer)
        whole = like.new_empty(inputs, inputs)
        for number, strip in enumerate(self.strips):
            start = number * STRIP
            whole[start : start + STRIP, start:] = strip
            whole[start:, start : start + STRIP] = strip.T
        return whole

    def goal(self, weights: torch.Tensor) -> torch.Tensor:
        """g W D, of weights W [outputs, inputs], of their type and on their device."""
        shift = self.shift.to(weights)
        return shift if _spoken(self.layer) else weights @ shift


def fold(found: dict[tuple[int, int], dict[str, Squares]]) -> None:
    """Add up neighbors, as far as they are there: (first part, how many parts) -> the sums of each layer."""
    while (span := next((span for span in found if _second(span) in found), None)) is not None:
        added, other = found.pop(span), found.pop(_second(span))
        for name, squares in added.items():
            squares.numbers += other[name].numbers
        found[span[0], 2 * span[1]] = added


def _shapes(layer: Any) -> list[tuple[int, int]]:
    """Of the strips, and of T."""
    inputs = inputs_of(layer)
    strips = [(min(STRIP, inputs - start), inputs - start) for start in range(0, inputs, STRIP)]
    return [*strips, (len(layer.weight) if _spoken(layer) else inputs, inputs)]


def _spoken(layer: Any) -> bool:
    """Whether T is g W D, what the layer says of the differences: where outputs are few beside inputs."""
    return 2 * len(layer.weight) < inputs_of(layer)


def _second(span: tuple[int, int]) -> tuple[int, int]:
    """The neighbor that these parts meet, if they come first of the two; else what is never there."""
    first, count = span
    return (first + count, count) if first // count % 2 == 0 else (-1, 0)


def _scaled(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Rows times the weight of their sample, spread over its places: [samples * places, inputs]."""
    return (rows * (weights / rows.shape[1]).view(-1, 1, 1)).flatten(0, 1)
