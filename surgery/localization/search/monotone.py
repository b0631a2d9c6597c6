"""Answers that follow from other answers, and the measure of how far that can be trusted.

Premise (monotonicity): if a set breaks the memory, every larger set does. Then a set that breaks answers for
all its supersets, one that does not for all its subsets. Sets are integers, one bit a neuron.

Monotonicity is measured as it goes. The **wobble** is the largest amount by which a set scored higher than
a smaller one; an answer is inferred only from a score at least twice that far from the threshold, else the
question gets its own test. At the end the inferred answers are judged again by the final wobble, and a
sample of the others is tested after all. One that proves wrong raises `NotMonotone`; the caller then repeats
the published walk test by test.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from surgery.localization.search.evaluation import Answer

INFERRED_PER_SPOT_CHECK = 8
MOST_SPOT_CHECKS = 16  # of a prompt: else they would be most of the work where hundreds of neurons leave
CLEARANCE = 2  # wobbles between a score and the threshold: the tests made so far see only a part of it


class NotMonotone(Exception):
    """An inferred answer proved wrong; never leaves `surgery.localization`."""


@dataclass
class MonotoneOracle:
    """Answers "does this set break the memory?" from earlier answers where it can, else by a test.

    Attributes:
        test: tests one set for real.
        threshold: the score that decides.
        known: every set tested so far, with its answer.
        inferred: questions of the published walk that were answered without a test, with the answer.
        wobble: the largest amount by which a set scored higher than one of its subsets.
    """

    test: Callable[[int], Answer]
    threshold: float
    known: dict[int, Answer] = field(default_factory=dict)
    inferred: dict[int, bool] = field(default_factory=dict)
    wobble: float = 0.0

    def infer(self, neurons: int) -> bool | None:
        """The answer that earlier tests imply beyond the wobble, or None."""
        if neurons in self.known:
            return self.known[neurons].broken
        for other, answer in self.known.items():
            if answer.broken and other & neurons == other and self._is_clear(answer):
                return True
            if not answer.broken and other & neurons == neurons and self._is_clear(answer):
                return False
        return None

    def is_clear(self, neurons: int) -> bool:
        """Whether the score of a set, if it was tested, lies far enough from the threshold to infer from."""
        answer = self.known.get(neurons)
        return answer is None or self._is_clear(answer)

    def guess(self, neurons: int) -> bool:
        """The answer for a set that the published walk does not ask for."""
        implied = self.infer(neurons)
        return self.learn(neurons, self.test(neurons)) if implied is None else implied

    def ask(self, neurons: int) -> bool:
        """The answer to a question of the published walk; `verify` comes back to the inferred ones."""
        implied = self.infer(neurons)
        if implied is None:
            return self.learn(neurons, self.test(neurons))
        if neurons not in self.known:
            self.inferred[neurons] = implied
        return implied

    def learn(self, neurons: int, answer: Answer) -> bool:
        """Take in the answer of a test.

        Raises:
            NotMonotone: it proves an inferred answer wrong.
        """
        for other, earlier in self.known.items():
            if other & neurons == neurons:
                self._compare(smaller=answer, larger=earlier)
            elif other & neurons == other:
                self._compare(smaller=earlier, larger=answer)
        self.known[neurons] = answer
        if self.inferred.pop(neurons, answer.broken) != answer.broken:
            raise NotMonotone
        return answer.broken

    def verify(self, spot_checks: bool) -> None:
        """Test the inferred answers that the final wobble puts in doubt.

        With `spot_checks`, test a sample of the others too: the same sample for the same questions.

        Raises:
            NotMonotone: one of them is wrong.
        """
        if spot_checks:
            questions = list(self.inferred)
            count = min(len(questions) // INFERRED_PER_SPOT_CHECK, MOST_SPOT_CHECKS)
            for neurons in random.Random(len(questions)).sample(questions, count):
                self.learn(neurons, self.test(neurons))
        while doubtful := [
            neurons for neurons, implied in self.inferred.items() if self.infer(neurons) is not implied
        ]:
            for neurons in doubtful:
                self.learn(neurons, self.test(neurons))

    def _is_clear(self, answer: Answer) -> bool:
        return abs(answer.score - self.threshold) >= CLEARANCE * self.wobble

    def _compare(self, smaller: Answer, larger: Answer) -> None:
        # An early stop gives a lower bound: it can prove the larger set too high, not the smaller one.
        if smaller.exact:
            self.wobble = max(self.wobble, larger.score - smaller.score)
