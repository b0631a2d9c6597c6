"""The fast refinement: the published result from about one test per neuron that stays.

Premise (monotonicity): if a set breaks the memory, every larger set does. Then one test answers many
questions (`surgery.localization.search.monotone`). The walk over layers and neurons is the published one,
question by question; it is cheap because well-chosen tests (guesses) come before the questions and answer
many of them:

1. **Certificate.** Gallop over the neurons ranked by importance, then bisect, to a small set C that breaks
   the memory by itself. All neurons outside C are thereby released without a test of their own. Where half
   of the neurons do not suffice, the memory is diffuse and there is no certificate: the caller repeats the
   published walk test by test, which is as cheap then and infers nothing.
2. **Walk.** A neuron of C gets its test when its turn comes. If the memory survives without it, it stays. If
   not, it is released, and the certificate is mended: first try C without it, else gallop on.
3. **Groups.** While neurons of C are released one after the other, the walk tries to release the next 2, 4,
   8, ... at once; a group that can't leave as a whole is halved until its first needed neuron is found.

Where C is the final set this takes one test for C and one for each of its neurons. Sets are integers, one bit
a neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from surgery.localization.search.monotone import MonotoneOracle


def refine_fast(
    order: Sequence[int],
    layers: Sequence[int],
    ranked: Sequence[int],
    certificate: int,
    oracle: MonotoneOracle,
) -> int:
    """The set that the published walk ends with, if the memory is monotone.

    Args:
        order: single-bit sets in the order of the published neuron walk, each at the place of its last copy.
        layers: the neurons of each layer as one set, in the order of the published layer walk.
        ranked: every neuron's bit once, most important first; decides the number of tests, never the result.
        certificate: a set that breaks the memory by itself (`find_certificate`).
        oracle: knows that the full set breaks the memory and that the empty set does not.

    Returns:
        The neurons that stay.

    Raises:
        NotMonotone: a test proved an inferred answer wrong.
    """
    current = union(order)
    for members in layers:
        if not members & current:
            continue
        # A layer with a neuron that is needed is needed; the neuron's test will be asked for later anyway.
        likely = next((bit for bit in ranked if bit & members & certificate), 0)
        if likely and oracle.infer(current & ~members) is None:
            oracle.guess(current & ~likely)
        if oracle.ask(current & ~members):
            current &= ~members
            if certificate & members:
                certificate = find_certificate(ranked, current, oracle, certificate & current)
    return _Walk(order, ranked, oracle, current, certificate).run()


class _Walk:
    """The walk over neurons: published questions in the published order, with guesses in between."""

    def __init__(
        self,
        order: Sequence[int],
        ranked: Sequence[int],
        oracle: MonotoneOracle,
        current: int,
        certificate: int,
    ) -> None:
        self.pending = [bit for bit in order if bit & current]
        self.ranked = ranked
        self.oracle = oracle
        self.current = current
        self.certificate = certificate
        self.kept = 0
        self.stride = 1  # neurons of the certificate that the next group holds
        self.covered = 0  # the group up to here can leave: its neurons need no other guess
        self.wall: int | None = None  # the pending neurons up to here are known not to leave together

    def run(self) -> int:
        """The neurons that stay."""
        released = 0
        for place, bit in enumerate(self.pending):
            if self.oracle.infer(self.current & ~bit) is None:
                self._guess(place)
            if not self.oracle.ask(self.current & ~bit):
                self.kept |= bit
                self.stride, released, self.wall = max(1, released // 2), 0, None
            else:
                self.current &= ~bit
                if bit & self.certificate:
                    released += 1
                    self.stride *= 1 if place < self.covered else 2
        return self.current

    def _guess(self, place: int) -> None:
        """Ask what may answer the question at this place and many of the following ones."""
        if not self.oracle.is_clear(self.certificate):
            self.certificate = 0
        if not self.certificate:
            return
        if place < self.covered:  # the group's score was too close to the threshold to infer from
            self.stride = 1
            return
        if self.certificate & ~self.current:
            base = (self.certificate & self.current) | self.kept
            self.certificate = find_certificate(self.ranked, self.current, self.oracle, base)
            if self.oracle.infer(self.current & ~self.pending[place]) is not None:
                return
        if self.wall is not None and place >= self.wall:
            self.wall = None
        while self.certificate and self.oracle.is_clear(self.current):
            end = self._end_of_group(place)
            if end <= place + 1:
                return
            if self.oracle.guess(self.current & ~union(self.pending[place:end])):
                self.covered = end
                self.stride *= 2
                return
            self.wall = end

    def _end_of_group(self, place: int) -> int:
        """Where the next group ends: after so many neurons of the certificate, the ones in doubt."""
        stop = len(self.pending) if self.wall is None else self.wall
        doubtful = [spot for spot in range(place, stop) if self.pending[spot] & self.certificate]
        count = self.stride if self.wall is None else len(doubtful) // 2
        return doubtful[min(count, len(doubtful)) - 1] + 1 if count and doubtful else place


def find_certificate(ranked: Sequence[int], current: int, oracle: MonotoneOracle, base: int = 0) -> int:
    """A small set between `base` and `current` that breaks the memory; `current` is known to.

    It is 0, none, where half of the neurons in question do not suffice, or where its score is too close to
    the threshold to infer from.
    """
    more = [bit for bit in ranked if bit & current & ~base]

    def with_first(count: int) -> int:
        return base | union(more[:count])

    def breaks(count: int) -> bool:
        return count == len(more) or oracle.guess(with_first(count))

    failed, count = leap(breaks, len(more))
    if count == len(more) and 2 * failed >= count:
        return 0
    count = bisect(breaks, failed, count)
    return with_first(count) if oracle.is_clear(with_first(count)) else 0


def leap(breaks: Callable[[int], bool], last: int) -> tuple[int, int]:
    """Gallop over 0, 1, 3, 7, ... to the first of these numbers that breaks the memory, or to `last`.

    Returns:
        The highest number tested that does not break it (-1: none), and the number reached.
    """
    failed, number, stride = -1, 0, 1
    while not breaks(number) and number < last:
        failed, number, stride = number, min(number + stride, last), stride * 2
    return failed, number


def bisect(breaks: Callable[[int], bool], failed: int, number: int, parts: int | None = None) -> int:
    """The lowest number that breaks the memory, between one that does not and one that does.

    Args:
        parts: end within that part of the number instead: 4 for a quarter.
    """
    while number - failed > (1 if parts is None else max(1, number // parts)):
        middle = (failed + number) // 2
        if breaks(middle):
            number = middle
        else:
            failed = middle
    return number


def union(bits: Iterable[int]) -> int:
    """The set of the given single-bit sets."""
    together = 0
    for bit in bits:
        together |= bit
    return together
