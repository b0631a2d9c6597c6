"""The fast refinement: the published result from about one test per neuron that stays.

Premise (monotonicity): if a set breaks the memory, every larger set does. Then one test answers many: a set
that breaks answers for all its supersets, one that does not for all its subsets (`MonotoneOracle`). The walk
over layers and neurons is the published one, question by question; it is cheap because well-chosen tests come
first:

1. **Certificate.** Gallop over the neurons ranked by importance, then bisect, to a small set C that breaks
   the memory by itself. All neurons outside C are thereby released without a test of their own.
2. **Walk.** A neuron of C gets its test when its turn comes. If the memory survives without it, it stays. If
   not, it is released, and the certificate is mended: first try C without it, else gallop on.

Where C is the final set this takes one test for C and one for each of its neurons. Sets are integers, one bit
a neuron.

Monotonicity is checked as it goes: scores of nested sets are compared, a sample of the inferred answers is
tested after all, and the final set must pass its own test. A contradiction raises `NotMonotone`; the caller
then repeats the published walk test by test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from surgery.localization.evaluation import Answer

TOLERANCE = (
    0.1  # a larger set may score so much more than a smaller one before monotonicity counts as violated
)
INFERRED_PER_SPOT_CHECK = 8


class NotMonotone(Exception):
    """Two answers contradict the premise; never leaves `surgery.localization`."""


@dataclass
class MonotoneOracle:
    """Answers "does this set break the memory?" from earlier answers where it can, else by a test.

    Attributes:
        test: tests one set for real.
        known: every set tested so far, with its answer.
        inferred: sets that were answered without a test, with the answer.
    """

    test: Callable[[int], Answer]
    known: dict[int, Answer] = field(default_factory=dict)
    inferred: dict[int, bool] = field(default_factory=dict)

    def infer(self, neurons: int) -> bool | None:
        """The answer that earlier tests imply, or None."""
        for other, answer in self.known.items():
            if answer.broken and other & neurons == other:
                return True
            if not answer.broken and other & neurons == neurons:
                return False
        return None

    def breaks(self, neurons: int) -> bool:
        """Whether the set breaks the memory.

        Raises:
            NotMonotone: a test contradicts an earlier one.
        """
        implied = self.infer(neurons)
        if implied is None:
            return self.learn(neurons, self.test(neurons))
        if neurons not in self.known:
            self.inferred[neurons] = implied
        return implied

    def learn(self, neurons: int, answer: Answer) -> bool:
        """Take in the answer of a test; raises `NotMonotone` where it contradicts an earlier one."""
        implied = self.infer(neurons)
        if implied is not None and implied != answer.broken:
            raise NotMonotone
        for other, earlier in self.known.items():
            if other & neurons == neurons:
                _compare(smaller=answer, larger=earlier)
            elif other & neurons == other:
                _compare(smaller=earlier, larger=answer)
        self.known[neurons] = answer
        return answer.broken

    def spot_check(self) -> None:
        """Test a sample of the inferred answers after all (the same sample for the same questions).

        Raises:
            NotMonotone: one of them is wrong.
        """
        questions = [neurons for neurons in self.inferred if neurons not in self.known]
        sample = random.Random(len(questions)).sample(questions, len(questions) // INFERRED_PER_SPOT_CHECK)
        for neurons in sample:
            self.learn(neurons, self.test(neurons))


def refine_fast(
    order: Sequence[int], layers: Sequence[int], ranked: Sequence[int], oracle: MonotoneOracle
) -> int:
    """The set that the published walk ends with, if the memory is monotone.

    Args:
        order: single-bit sets, every neuron once, in the order of the published neuron walk.
        layers: the neurons of each layer as one set, in the order of the published layer walk.
        ranked: the bits of `order`, most important first; decides the number of tests, never the result.
        oracle: knows that the full set breaks the memory and that the empty set does not.

    Returns:
        The neurons that stay.

    Raises:
        NotMonotone: a check failed.
    """
    current = 0
    for bit in order:
        current |= bit
    kept = 0
    certificate = _certificate(0, ranked, current, oracle)
    for members in layers:
        # A layer with a neuron that is needed is needed; the neuron's test will be asked for later anyway.
        needed = (not oracle.breaks(current & ~bit) for bit in order if bit & members & certificate)
        if oracle.infer(current & ~members) is None and any(needed):
            continue
        if oracle.breaks(current & ~members):
            current &= ~members
            if certificate & members:
                certificate = _certificate(certificate & ~members, ranked, current, oracle)
    for bit in order:
        if not bit & current:
            continue
        if not oracle.breaks(current & ~bit):
            kept |= bit
            continue
        current &= ~bit
        if certificate & bit:
            certificate = _certificate((certificate & ~bit) | kept, ranked, current, oracle)
    return current


def _certificate(base: int, ranked: Sequence[int], current: int, oracle: MonotoneOracle) -> int:
    """A small set between `base` and `current` that breaks the memory; `current` is known to."""
    more = [bit for bit in ranked if bit & current & ~base]

    def with_first(count: int) -> int:
        chosen = base
        for bit in more[:count]:
            chosen |= bit
        return chosen

    failed, count, stride = -1, 0, 1
    while count < len(more) and not oracle.breaks(with_first(count)):
        failed, count, stride = count, min(count + stride, len(more)), stride * 2
    while count - failed > 1:
        middle = (failed + count) // 2
        if oracle.breaks(with_first(middle)):
            count = middle
        else:
            failed = middle
    return with_first(count)


def _compare(smaller: Answer, larger: Answer) -> None:
    # An early stop gives a lower bound: it can prove the larger set too high, not the smaller one.
    if not larger.broken and smaller.exact and larger.score > smaller.score + TOLERANCE:
        raise NotMonotone
