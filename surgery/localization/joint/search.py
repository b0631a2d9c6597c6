"""The joint search: one small mask that breaks every prompt's memory, as a search over sets of numbers.

It knows no model: a `System` says whether a prompt is broken with a set off (a test), what each neuron would
do to a prompt, to first order (an attribution), and what each would cost.

1. **Grow.** From the start mask, while prompts are not broken: attribute them with the mask in place, and add
   the neurons of the greatest benefit per cost, where the benefit is summed over the prompts not yet broken
   and never counts more than what a prompt still lacks. At most 8 neurons in the first round, twice as many
   in each further one, and never more than 8 a prompt. This is the greedy algorithm for covering problems
   (Wolsey 1982), in rounds.
2. **Certificates.** A prompt's certificate is a small part of the mask that breaks its memory by itself: rank
   the mask's neurons by worth (share in the prompt's own effects, times what all prompts owe to the neuron,
   per cost), gallop (1, 3, 7, ...) and bisect to the smallest prefix that does. The hardest prompts come
   first; a prompt that the certificates so far break already needs no further neuron, and gets its
   certificate among them. What is in no certificate leaves.
3. **Release.** Neurons of few certificates and high cost come first, those that many prompts share last. A
   group leaves if every prompt whose certificate it touches stays broken; groups double when they leave and
   are halved when they do not. No other prompt needs a test: its certificate is still off. Prompts whose
   certificate lost a neuron get another one.
4. **Check.** All prompts are tested under the final mask. What came back (memories are not quite monotone)
   is grown anew with the mask in place.

Tests: to grow, one a prompt and round; for a certificate of c neurons, at most 2 log2(c) + 1; for the
release, about one a neuron that is kept; for the check, one a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy

from surgery.localization.search.certificate import bisect, leap

Mask = frozenset[int]

FIRST_CHUNK = 8
ROUNDS = 16  # of growth: 8 + 16 + 32 + ... exceeds any model's neurons long before
MENDINGS = 3
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
        effects: [prompts, neurons], the largest share of what a prompt lacked that each neuron promised.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.evaluations = 0
        self.attributions = 0
        self.effects = numpy.zeros((system.prompts, system.neurons))
        self.rounds = Counter[int]()
        self._known: dict[tuple[int, Mask], bool] = {}

    def run(self, start: Iterable[int] = ()) -> JointMask:
        """The mask for all prompts, grown from `start`."""
        everyone = range(self.system.prompts)
        off = frozenset(start)
        if off:  # what else could have been chosen competes with it, or a poor start would stay
            seen = [self._attribute(prompt, frozenset()) for prompt in everyone]
            off |= self._chunk(seen, frozenset(), max(FIRST_CHUNK, len(off)))
        off, stays = self.grow(off, everyone)
        found = JointMask(off, stays=stays, grown=len(off))
        served = [prompt for prompt in everyone if prompt not in stays]
        self._gather(found, served)
        self._release(found)
        return self.mend(found, served)

    def _gather(self, found: JointMask, prompts: Sequence[int]) -> None:
        """Keep certificates until they break every prompt, those that were hardest to break first."""
        kept: Mask = frozenset()
        free = []
        for prompt in sorted(prompts, key=lambda prompt: -self.rounds[prompt]):
            if kept and self.is_broken(prompt, kept):
                free.append(prompt)
            else:
                self._certify(found, [prompt])
                kept |= found.certificates[prompt]
        found.off = kept
        self._certify(found, free)

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
        self._certify(found, [prompt for prompt, one in found.certificates.items() if not one < found.off])
        found.stays = tuple(sorted({*found.stays, *came_back}))
        return found

    def _trimmed(self, base: Mask, grown: Mask, prompts: Sequence[int]) -> Mask:
        """The base with no more of what was grown on it than these prompts need."""
        if not prompts or grown == base:
            return base
        promised = self.effects[list(prompts)].sum(0) / self.system.costs(base)
        order = sorted(grown - base, key=lambda neuron: (-promised[neuron], neuron))

        def breaks(count: int) -> bool:
            off = base.union(order[:count])
            return count == len(order) or all(self.is_broken(prompt, off) for prompt in prompts)

        return base.union(order[: bisect(breaks, *leap(breaks, len(order)))])

    def grow(self, off: Mask, prompts: Iterable[int]) -> tuple[Mask, tuple[int, ...]]:
        """A larger mask that breaks these prompts, and those of them that no addition breaks."""
        waiting = [prompt for prompt in prompts if not self.is_broken(prompt, off)]
        most = FIRST_CHUNK
        for _ in range(ROUNDS):
            if not waiting:
                break
            self.rounds.update(waiting)
            seen = [self._attribute(prompt, off) for prompt in waiting]
            added = self._chunk(seen, off, min(most, FIRST_CHUNK * len(waiting)))
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

    def _chunk(self, seen: Sequence[tuple[numpy.ndarray, float]], off: Mask, most: int) -> Mask:
        """The next neurons, at most so many; fewer where they already promise enough for every prompt."""
        effects = numpy.stack([numpy.clip(one, 0, None) for one, _ in seen])
        lacking = numpy.array([lack for _, lack in seen])
        effects[:, list(off)] = 0
        added: set[int] = set()
        while len(added) < most:
            gain = numpy.minimum(effects, lacking[:, None].clip(0)).sum(0)
            if gain.max() <= NO_EFFECT:
                break
            best = int((gain / self.system.costs(off | added)).argmax())
            added.add(best)
            lacking = lacking - effects[:, best]
            effects[:, best] = 0
        return frozenset(added)

    def _certify(self, found: JointMask, prompts: Iterable[int]) -> None:
        """Find the certificates of these prompts, which the whole mask is known to break."""
        for prompt in prompts:
            order = self.ranked(prompt, found.off)

            def breaks(count: int, prompt: int = prompt, order: list[int] = order) -> bool:
                if count in (0, len(order)):  # nothing breaks nothing, and the whole mask is known to do
                    return count > 0
                return self.is_broken(prompt, frozenset(order[:count]))

            failed, count = leap(breaks, len(order))
            found.certificates[prompt] = frozenset(order[: bisect(breaks, failed, count)])

    def ranked(self, prompt: int, off: Mask) -> list[int]:
        """The neurons of a mask by their worth to a prompt, most first."""
        shares = self.effects / self.effects.sum(1, keepdims=True).clip(NO_EFFECT)
        worth = shares[prompt] * shares.sum(0) / self.system.costs(frozenset())
        return sorted(off, key=lambda neuron: (-worth[neuron], -shares[:, neuron].sum(), neuron))

    def _release(self, found: JointMask) -> None:
        costs = self.system.costs(frozenset())
        shares = {neuron: sum(neuron in one for one in found.certificates.values()) for neuron in found.off}
        waiting = sorted(found.off, key=lambda neuron: (-costs[neuron] / max(1, shares[neuron]), neuron))
        whole: set[int] = set()  # prompts whose certificate is, by now, all that is off
        failures = Counter[int]()
        size = 1
        while waiting:
            group = frozenset(waiting[:size])
            rest = found.off - group
            touched = [
                prompt
                for prompt in sorted(found.certificates, key=lambda prompt: -failures[prompt])
                if prompt in whole or found.certificates[prompt] & group
            ]
            back = next((prompt for prompt in touched if not self.is_broken(prompt, rest)), None)
            if back is None:
                found.off, waiting, size = rest, waiting[size:], 2 * size
                whole.update(touched)
                continue
            failures[back] += 1  # whoever came back often is asked first
            if len(group) == 1:
                waiting = waiting[1:]
            else:
                size = len(group) // 2
        self._certify(found, sorted(whole))

    def _attribute(self, prompt: int, off: Mask) -> tuple[numpy.ndarray, float]:
        self.attributions += 1
        effects, lacking = self.system.effects(prompt, off)
        share = numpy.clip(effects, 0, None) / max(lacking, NO_EFFECT)
        self.effects[prompt] = numpy.maximum(self.effects[prompt], share)
        return effects, lacking
