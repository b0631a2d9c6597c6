"""What the joint search asks: prompts and neurons as numbers, tests, attributions and costs.

`Asked` puts the questions: each once, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy

Mask = frozenset[int]

NO_EFFECT = 1e-9


class System(Protocol):
    """Prompts and neurons, both numbered from 0."""

    @property
    def prompts(self) -> int:
        """How many prompts there are."""

    @property
    def neurons(self) -> int:
        """How many neurons may be chosen."""

    def broken(self, prompt: int, off: Mask) -> bool:
        """Whether the prompt's memory is broken with these neurons off: one test."""

    def effects(self, prompt: int, off: Mask) -> tuple[numpy.ndarray, float]:
        """First-order effects with these neurons off: one attribution.

        Returns:
            [neurons] how far each one brings the prompt (negative: back), and how far it has to go.
        """

    def costs(self, off: Mask) -> numpy.ndarray:
        """[neurons] what each neuron would cost on top of those that are off, above 0."""


class Asked:
    """A system, with what it said so far.

    Args:
        system: what is asked.

    Attributes:
        evaluations: tests made; `attributions`: attributions made.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.evaluations = 0
        self.attributions = 0
        self._known: dict[tuple[int, Mask], bool] = {}

    def is_broken(self, prompt: int, off: Mask) -> bool:
        """The system's word, asked for once; with nothing off, no memory is broken."""
        if not off:
            return False
        if (prompt, off) not in self._known:
            self.evaluations += 1
            self._known[prompt, off] = self.system.broken(prompt, off)
        return self._known[prompt, off]

    def coming_back(self, prompts: Iterable[int], off: Mask) -> list[int]:
        """Those of the prompts that these neurons do not break."""
        return [prompt for prompt in prompts if not self.is_broken(prompt, off)]

    def forget(self, prompt: int) -> None:
        """The prompt is judged by more than before: what is known of it no longer holds."""
        self._known = {key: value for key, value in self._known.items() if key[0] != prompt}

    def shares(self, prompt: int, off: Mask) -> numpy.ndarray:
        """[neurons] the share of what the prompt lacks that each would bring, at least 0."""
        self.attributions += 1
        effects, lacking = self.system.effects(prompt, off)
        return numpy.clip(effects, 0, None) / max(lacking, NO_EFFECT)
