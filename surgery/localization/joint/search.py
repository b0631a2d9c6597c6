"""The joint search: one small mask that breaks every prompt's memory, as a search over sets of numbers.

It knows no model: a `System` says whether a prompt is broken with a set off (a test), what each neuron would
do to a prompt, to first order (an attribution), and what each would cost.

1. **Grow** a mask that breaks all prompts (`surgery.localization.joint.growth`).
2. **Certificates.** A prompt's certificate is a small part of the mask that breaks its memory by itself: a
   prefix of the mask's neurons ranked by worth. The promises say where it may end; from there, double or
   halve, then bisect to within a quarter. The hardest prompts come first. A prompt that the certificates so
   far break already needs no further neuron, and gets its certificate among them. What is in no certificate
   leaves.
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

import numpy

from surgery.localization.joint.growth import CHUNK, Growth
from surgery.localization.joint.system import NO_EFFECT, Asked, Mask, System
from surgery.localization.search.certificate import bisect

MENDINGS = 3
PARTS = 32  # that a mask is released in, at least
HOPEFUL = 0.5  # a mask that promises a prompt less than this share is not worth a test


@dataclass
class JointMask:
    """What the search found.

    Attributes:
        off: the mask.
        certificates: prompt -> a part of the mask that breaks its memory by itself. Prompts that stay have
            none.
        stays: the prompts whose memory the mask does not break.
        grown: how many neurons the mask had before the release.
        loose: prompts whose certificate is a whole mask, not yet cut down.
    """

    off: Mask
    certificates: dict[int, Mask] = field(default_factory=dict)
    stays: tuple[int, ...] = ()
    grown: int = 0
    loose: set[int] = field(default_factory=set)


class JointSearch:
    """One search.

    Args:
        system: what is searched.

    Attributes:
        asked: the system with its answers, and how many there were.
    """

    def __init__(self, system: System) -> None:
        self.asked = Asked(system)
        self._growth = Growth(self.asked)
        self._returns = Counter[int]()  # prompt -> how often it came back in the release

    def run(self, own: Mapping[int, Mask] | None = None, given: Iterable[int] = ()) -> JointMask:
        """The mask for all prompts.

        Args:
            own: prompt -> what its own search ended with.
            given: neurons that are off in any case.
        """
        everyone = range(self.asked.system.prompts)
        base = frozenset(given)
        self._growth.believe(own or {})
        off, stays = self._growth.grow(base, everyone)
        found = JointMask(off, stays=stays, grown=len(off))
        served = [prompt for prompt in everyone if prompt not in stays]
        self._gather(found, served, base)
        self._release(found, base)
        self.mend(found, served)
        return found

    def mend(self, found: JointMask, prompts: Sequence[int]) -> None:
        """Test these prompts under the mask; add to it, in place, for those that came back."""
        came_back = self.asked.coming_back(prompts, found.off)
        for _ in range(MENDINGS):
            if not came_back:
                break
            base = found.off
            grown, stuck = self._growth.grow(base, came_back)
            mended = [prompt for prompt in came_back if prompt not in stuck]
            found.off = self._trimmed(base, grown, mended)
            if found.off == base:
                break
            found.certificates |= dict.fromkeys(mended, found.off)
            found.loose.update(mended)
            came_back = self.asked.coming_back(prompts, found.off)
        for prompt in came_back:
            found.certificates.pop(prompt, None)
        found.stays = tuple(sorted({*found.stays, *came_back}))

    def certify(self, found: JointMask) -> None:
        """Cut down the certificates that are whole masks."""
        for prompt in sorted(found.loose & set(found.certificates)):
            found.certificates[prompt] = self._certificate(prompt, found.off)
        found.loose.clear()

    def _gather(self, found: JointMask, prompts: Sequence[int], base: Mask) -> None:
        """Keep certificates until they break every prompt, those that were hardest to break first."""
        kept = base
        free = []
        for prompt in sorted(prompts, key=lambda prompt: -self._growth.rounds[prompt]):
            hopeful = self._growth.promises[prompt, list(kept)].sum() >= HOPEFUL
            if hopeful and self.asked.is_broken(prompt, kept):
                free.append(prompt)
            else:
                found.certificates[prompt] = self._certificate(prompt, found.off)
                kept |= found.certificates[prompt]
        found.off = kept
        for prompt in free:
            found.certificates[prompt] = self._certificate(prompt, kept)

    def _certificate(self, prompt: int, off: Mask) -> Mask:
        """A small part of a mask that is known to break the prompt."""
        order = self._growth.ranked(prompt, off)

        def breaks(count: int) -> bool:
            return count == len(order) or self.asked.is_broken(prompt, frozenset(order[:count]))

        promised = self._growth.promises[prompt, order].cumsum()
        number = min(len(order), 1 + int(numpy.searchsorted(promised, 1 - NO_EFFECT)))
        return frozenset(order[: _near(breaks, number, len(order))])

    def _release(self, found: JointMask, base: Mask) -> None:
        costs = self.asked.system.costs(frozenset())
        shares = {neuron: sum(neuron in one for one in found.certificates.values()) for neuron in found.off}
        waiting = sorted(
            found.off - base, key=lambda neuron: (-costs[neuron] / max(1, shares[neuron]), neuron)
        )
        least = -(-len(waiting) // max(PARTS, CHUNK * self.asked.system.prompts))
        size = least
        while waiting:
            group = frozenset(waiting[:size])
            rest = found.off - group
            touched = [
                prompt
                for prompt in sorted(found.certificates, key=self._fragile)
                if prompt in found.loose or found.certificates[prompt] & group
            ]
            back = next((prompt for prompt in touched if not self.asked.is_broken(prompt, rest)), None)
            if back is None:
                found.off, waiting, size = rest, waiting[size:], 2 * size
                found.loose.update(touched)
                continue
            self._returns[back] += 1
            if size <= least:
                waiting = waiting[size:]
            else:
                size = max(least, len(group) // 2)
        found.certificates |= dict.fromkeys(found.loose, found.off)

    def _fragile(self, prompt: int) -> tuple[int, int, int]:
        return -self._returns[prompt], -self._growth.rounds[prompt], prompt

    def _trimmed(self, base: Mask, grown: Mask, prompts: Sequence[int]) -> Mask:
        """The base with no more of what was grown on it than these prompts need."""
        if not prompts or grown == base:
            return base
        order = self._growth.by_promise(grown - base, prompts, base)

        def breaks(count: int) -> bool:
            off = base.union(order[:count])
            return count == len(order) or all(
                self.asked.is_broken(prompt, off) for prompt in sorted(prompts, key=self._fragile)
            )

        return base.union(order[: _near(breaks, -(-len(order) // 2), len(order))])


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
    return bisect(breaks, failed, number, 4)
