"""Growth: from a mask to a larger one that breaks more prompts, by what neurons promise.

A **promise** is the share of what a prompt lacks that a neuron is believed to bring: what an attribution
says, or 1 / n where the prompt's own search ended with it as one of n. Promises are beliefs: they decide what
is tested first, and nothing else.

While prompts are not broken: attribute them with the mask in place, and add the neurons of the greatest
promise per cost, where the promise is summed over the prompts not yet broken and never counts more than what
a prompt still lacks. At most 2 neurons a prompt (8 at least) in the first round, twice as many in each
further one. This is the greedy algorithm for covering problems (Wolsey 1982), in rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy

from surgery.localization.joint.system import NO_EFFECT, Asked, Mask

FIRST_CHUNK = 8
CHUNK = 2  # neurons a prompt in the first round
ROUNDS = 16  # 8 + 16 + 32 + ... exceeds any model's neurons long before


class Growth:
    """Grows masks, and remembers what neurons promised on the way.

    Args:
        asked: whose prompts.

    Attributes:
        promises: [prompts, neurons], the largest so far.
        rounds: prompt -> how many rounds it took part in: how hard it is to break.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.promises = numpy.zeros((asked.system.prompts, asked.system.neurons))
        self.rounds = Counter[int]()
        self._own = self.promises.copy()

    def believe(self, own: Mapping[int, Mask]) -> None:
        """Take what prompts' own searches ended with for promises: prompt -> neurons."""
        for prompt, one in own.items():
            self._own[prompt, list(one)] = 1 / max(1, len(one))
        self.promises = numpy.maximum(self.promises, self._own)

    def grow(self, off: Mask, prompts: Iterable[int]) -> tuple[Mask, tuple[int, ...]]:
        """A larger mask that breaks these prompts, and those of them that no addition breaks."""
        waiting = self.asked.coming_back(prompts, off)
        most = max(FIRST_CHUNK, CHUNK * len(waiting))
        for _ in range(ROUNDS):
            if not waiting:
                break
            self.rounds.update(waiting)
            promises = numpy.stack([self._attribute(prompt, off) for prompt in waiting])
            added = self._chunk(promises, off, min(most, FIRST_CHUNK * len(waiting)))
            if not added:
                break
            off, most = off | added, 2 * most
            waiting = self.asked.coming_back(waiting, off)
        return off, tuple(waiting)

    def ranked(self, prompt: int, off: Mask) -> list[int]:
        """The neurons of a mask by their worth to a prompt, most first.

        Worth is the prompt's share of the promises, times what all prompts owe to the neuron, per cost.
        """
        shares = self.promises / self.promises.sum(1, keepdims=True).clip(NO_EFFECT)
        worth = shares[prompt] * shares.sum(0) / self.asked.system.costs(frozenset())
        return sorted(off, key=lambda neuron: (-worth[neuron], -shares[:, neuron].sum(), neuron))

    def by_promise(self, neurons: Mask, prompts: Iterable[int], off: Mask) -> list[int]:
        """Neurons by what they promised to these prompts per cost on top of a mask, most first."""
        promised = self.promises[list(prompts)].sum(0) / self.asked.system.costs(off)
        return sorted(neurons, key=lambda neuron: (-promised[neuron], neuron))

    def _attribute(self, prompt: int, off: Mask) -> numpy.ndarray:
        shares = self.asked.shares(prompt, off)
        self.promises[prompt] = numpy.maximum(self.promises[prompt], shares)
        return numpy.maximum(shares, self._own[prompt])

    def _chunk(self, promises: numpy.ndarray, off: Mask, most: int) -> Mask:
        """The next neurons, at most so many; fewer where they already promise enough for every prompt.

        Args:
            promises: [prompts that wait, neurons].
        """
        promises = promises.copy()
        promises[:, list(off)] = 0
        lacking = numpy.ones(len(promises))
        added: set[int] = set()
        while len(added) < most:
            gain = numpy.minimum(promises, lacking[:, None].clip(0)).sum(0)
            if gain.max() <= NO_EFFECT:
                break
            best = int((gain / self.asked.system.costs(off | added)).argmax())
            added.add(best)
            lacking = lacking - promises[:, best]
            promises[:, best] = 0
        return frozenset(added)
