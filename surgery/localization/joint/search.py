"""The joint search: one small mask that breaks every prompt's memory, as a search over sets of numbers.

It knows no model: a `System` says whether a prompt is broken with a set off (a test), what each neuron would
do to a prompt, to first order (an attribution), and what each would cost.

A **promise** is the share of what a prompt lacks that a neuron is believed to bring: the largest that an
attribution said, or 1 / n where the prompt's own search ended with it as one of n. Promises are beliefs: they
decide what is tested first, and nothing else.

1. **Grow.** While prompts are not broken: attribute them with the mask in place, and add the neurons of the
   greatest promise per cost, where the promise is summed over the prompts not yet broken and never counts
   more than what a prompt still lacks. At most 2 neurons a prompt (8 at least) in the first round, twice as
   many in each further one. This is the greedy algorithm for covering problems (Wolsey 1982), in rounds.
2. **Certificates.** A prompt's certificate is a small part of the mask that breaks its memory by itself: a
   prefix of the mask's neurons ranked by worth (the prompt's promise, times what all prompts owe to the
   neuron, per cost). The promises say where it may end; from there, double or halve, then bisect to within a
   quarter. The hardest prompts come first. A prompt that the certificates so far break already needs no
   further neuron, and gets its certificate among them. What is in no certificate leaves.
3. **Release.** Neurons of few certificates and high cost come first, those that many prompts share last. A
   group leaves if every prompt whose certificate it touches stays broken; groups double when they leave and
   are halved when they do not. No other prompt needs a test: its certificate is still off. Groups are halved
   until a mask of at most 32 neurons (2 a prompt) is tested neuron by neuron, a larger one in so many parts.
4. **Check.** All prompts are tested under the final mask. What came back (memories are not quite monotone)
   is grown anew with the mask in place.

A test of several prompts ends at the first that comes back, those that did so before first. Tests: to grow,
one a prompt and round; for a certificate of c neurons where n were promised, about |log2(c / n)| + 2; for the
release, about one for each part that stays; for the check, one a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy

Mask = frozenset[int]

FIRST_CHUNK = 8
CHUNK = 2  # neurons a prompt in the first round
ROUNDS = 16  # of growth: 8 + 16 + 32 + ... exceeds any model's neurons long before
MENDINGS = 3
PARTS = 32  # that a mask is released in, at least
HOPEFUL = 0.5  # a mask that promises a prompt less than this share is not worth a test
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


@dataclass
class JointMask:
    """What the search found.

    Attributes:
        off: the mask.
        certificates: prompt -> a part of the mask that breaks its memory by itself. Prompts that stay have
            none.
        stays: the prompts whose memory the mask does not break.
        grown: how many neurons the mask had before the release.
    """

    off: Mask
    certificates: dict[int, Mask] = field(default_factory=dict)
    stays: tuple[int, ...] = ()
    grown: int = 0


class JointSearch:
    """One search.

    Args:
        system: what is searched.

    Attributes:
        evaluations: tests made; `attributions`: attributions made.
        rounds: prompt -> how many rounds of growth it took part in: how hard it is to break.
        promises: [prompts, neurons], see the module.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.evaluations = 0
        self.attributions = 0
        self.promises = numpy.zeros((system.prompts, system.neurons))
        self._own = numpy.zeros_like(self.promises)
        self.rounds = Counter[int]()
        self.returns = Counter[int]()  # prompt -> how often it came back in the release
        self._known: dict[tuple[int, Mask], bool] = {}

    def run(self, own: Mapping[int, Mask] | None = None, given: Iterable[int] = ()) -> JointMask:
        """The mask for all prompts.

        Args:
            own: prompt -> what its own search ended with.
            given: neurons that are off in any case.
        """
        everyone = range(self.system.prompts)
        base = frozenset(given)
        for prompt, one in (own or {}).items():
            self._own[prompt, list(one)] = 1 / max(1, len(one))
        self.promises = self._own.copy()
        off, stays = self.grow(base, everyone)
        found = JointMask(off, stays=stays, grown=len(off))
        served = [prompt for prompt in everyone if prompt not in stays]
        self._gather(found, served, base)
        self._release(found, base)
        return self.mend(found, served)

    def grow(self, off: Mask, prompts: Iterable[int]) -> tuple[Mask, tuple[int, ...]]:
        """A larger mask that breaks these prompts, and those of them that no addition breaks."""
        waiting = [prompt for prompt in prompts if not self.is_broken(prompt, off)]
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
            waiting = [prompt for prompt in waiting if not self.is_broken(prompt, off)]
        return off, tuple(waiting)

    def is_broken(self, prompt: int, off: Mask) -> bool:
        """The system's word, asked for once; with nothing off, no memory is broken."""
        if not off:
            return False
        if (prompt, off) not in self._known:
            self.evaluations += 1
            self._known[prompt, off] = self.system.broken(prompt, off)
        return self._known[prompt, off]

    def forget(self, prompt: int) -> None:
        """The prompt is judged by more than before: what is known of it no longer holds."""
        self._known = {key: value for key, value in self._known.items() if key[0] != prompt}

    def mend(self, found: JointMask, served: Sequence[int]) -> JointMask:
        """Test the prompts under the mask; add to it, in place, for those that came back."""
        came_back = [prompt for prompt in served if not self.is_broken(prompt, found.off)]
        for _ in range(MENDINGS):
            base = found.off
            grown, stuck = self.grow(base, came_back)
            mended = [prompt for prompt in came_back if prompt not in stuck]
            found.off = self._trimmed(base, grown, mended)
            if found.off == base:
                break
            found.certificates |= dict.fromkeys(mended, found.off)
            came_back = [prompt for prompt in served if not self.is_broken(prompt, found.off)]
        for prompt in came_back:
            found.certificates.pop(prompt, None)
        for prompt, one in list(found.certificates.items()):
            if not one < found.off:
                found.certificates[prompt] = self._certificate(prompt, found.off)
        found.stays = tuple(sorted({*found.stays, *came_back}))
        return found

    def _gather(self, found: JointMask, prompts: Sequence[int], base: Mask) -> None:
        """Keep certificates until they break every prompt, those that were hardest to break first."""
        kept = base
        free = []
        for prompt in sorted(prompts, key=lambda prompt: -self.rounds[prompt]):
            if self.promises[prompt, list(kept)].sum() >= HOPEFUL and self.is_broken(prompt, kept):
                free.append(prompt)
            else:
                found.certificates[prompt] = self._certificate(prompt, found.off)
                kept |= found.certificates[prompt]
        found.off = kept
        for prompt in free:
            found.certificates[prompt] = self._certificate(prompt, kept)

    def _certificate(self, prompt: int, off: Mask) -> Mask:
        """A small part of a mask that is known to break the prompt."""
        order = self.ranked(prompt, off)

        def breaks(count: int) -> bool:
            return count == len(order) or self.is_broken(prompt, frozenset(order[:count]))

        promised = self.promises[prompt, order].cumsum()
        number = min(len(order), 1 + int(numpy.searchsorted(promised, 1 - NO_EFFECT)))
        return frozenset(order[: _near(breaks, number, len(order))])

    def ranked(self, prompt: int, off: Mask) -> list[int]:
        """The neurons of a mask by their worth to a prompt, most first."""
        shares = self.promises / self.promises.sum(1, keepdims=True).clip(NO_EFFECT)
        worth = shares[prompt] * shares.sum(0) / self.system.costs(frozenset())
        return sorted(off, key=lambda neuron: (-worth[neuron], -shares[:, neuron].sum(), neuron))

    def _release(self, found: JointMask, base: Mask) -> None:
        costs = self.system.costs(frozenset())
        shares = {neuron: sum(neuron in one for one in found.certificates.values()) for neuron in found.off}
        waiting = sorted(
            found.off - base, key=lambda neuron: (-costs[neuron] / max(1, shares[neuron]), neuron)
        )
        least = -(-len(waiting) // max(PARTS, CHUNK * self.system.prompts))
        whole: set[int] = set()  # prompts whose certificate is, by now, all that is off
        size = least
        while waiting:
            group = frozenset(waiting[:size])
            rest = found.off - group
            touched = [
                prompt
                for prompt in sorted(found.certificates, key=self._fragile)
                if prompt in whole or found.certificates[prompt] & group
            ]
            back = next((prompt for prompt in touched if not self.is_broken(prompt, rest)), None)
            if back is None:
                found.off, waiting, size = rest, waiting[size:], 2 * size
                whole.update(touched)
                continue
            self.returns[back] += 1
            if size <= least:
                waiting = waiting[size:]
            else:
                size = max(least, len(group) // 2)
        for prompt in sorted(whole):
            found.certificates[prompt] = self._certificate(prompt, found.off)

    def _fragile(self, prompt: int) -> tuple[int, int, int]:
        return -self.returns[prompt], -self.rounds[prompt], prompt

    def _trimmed(self, base: Mask, grown: Mask, prompts: Sequence[int]) -> Mask:
        """The base with no more of what was grown on it than these prompts need."""
        if not prompts or grown == base:
            return base
        promised = self.promises[list(prompts)].sum(0) / self.system.costs(base)
        order = sorted(grown - base, key=lambda neuron: (-promised[neuron], neuron))

        def breaks(count: int) -> bool:
            off = base.union(order[:count])
            return count == len(order) or all(
                self.is_broken(prompt, off) for prompt in sorted(prompts, key=self._fragile)
            )

        return base.union(order[: _near(breaks, -(-len(order) // 2), len(order))])

    def _chunk(self, promises: numpy.ndarray, off: Mask, most: int) -> Mask:
        """The next neurons, at most so many; fewer where they already promise enough for every prompt."""
        promises = promises.copy()
        promises[:, list(off)] = 0
        lacking = numpy.ones(len(promises))
        added: set[int] = set()
        while len(added) < most:
            gain = numpy.minimum(promises, lacking[:, None].clip(0)).sum(0)
            if gain.max() <= NO_EFFECT:
                break
            best = int((gain / self.system.costs(off | added)).argmax())
            added.add(best)
            lacking = lacking - promises[:, best]
            promises[:, best] = 0
        return frozenset(added)

    def _attribute(self, prompt: int, off: Mask) -> numpy.ndarray:
        """[neurons] the promises that hold for this prompt with these neurons off."""
        self.attributions += 1
        effects, lacking = self.system.effects(prompt, off)
        share = numpy.clip(effects, 0, None) / max(lacking, NO_EFFECT)
        self.promises[prompt] = numpy.maximum(self.promises[prompt], share)
        return numpy.maximum(share, self._own[prompt])


def _near(breaks: Callable[[int], bool], number: int, last: int) -> int:
    """A number that breaks, within a quarter of the lowest one; sought from `number` outward.

    Args:
        breaks: whether a number from 1 to `last` does; known for `last`.
    """
    failed = 0
    while not breaks(number):
        failed, number = number, min(2 * number, last)
    while number > 1 and not failed:
        half = number // 2
        if breaks(half):
            number = half
        else:
            failed = half
    while number - failed > max(1, number // 4):
        middle = (failed + number) // 2
        if breaks(middle):
            number = middle
        else:
            failed = middle
    return number
