"""Initial selection: from thousands of neurons to a set that breaks the memory.

Step i of the published descent takes every neuron with z > theta, plus in each layer the k neurons with the
largest activation, where theta = start - i x step (at least the minimum) and k = first k + i. It ablates them
and stops at the first step whose score is at most the threshold. As published, the descent ends BEFORE the
step at which theta would be at its minimum, or k at its maximum: by default the last one has theta 1.25 and
k 15. Where it does not reach the threshold either, the prompt is unresolved, and the score reached there
is the threshold of refinement.

The sets grow with i. The fast search therefore gallops (steps 0, 1, 3, 7, ...) to the first that breaks, then
bisects the gap: the same step as the published walk, wherever the score falls as neurons are added.
Where the scores do not fall, or no step breaks the memory, it tests the steps it leapt over too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from surgery.localization.search.certificate import bisect, leap
from surgery.localization.search.evaluation import Answer
from surgery.localization.search.monotone import MonotoneOracle
from surgery.localization.settings import LocalizeSettings
from surgery.neurons import NeuronSet

Neuron = tuple[str, int]


@dataclass(frozen=True)
class Step:
    """One step of the descent: z-score threshold (None: not used) and neurons per layer."""

    theta: float | None
    k: int


@dataclass(frozen=True)
class Selection:
    """Where the descent stopped.

    Attributes:
        neurons: the initial set in the published order, WITH the duplicates that top-k adds: layers in the
            order of the signal; in each, the rows above theta by number, then the top-k rows by falling
            activation.
        step: theta and k.
        steps: how many steps the published walk takes to get here.
        score: the score with the set off; None where only a part of it was tested and broke the memory.
        resolved: whether it is at most the threshold.
        tests: what was tested on the way, with the answers.
    """

    neurons: list[Neuron]
    step: Step
    steps: int
    score: float | None
    resolved: bool
    tests: list[tuple[list[Neuron], Answer]] = field(default_factory=list, compare=False)


class Descent:
    """The nested candidate sets of one prompt.

    Args:
        activation: layer name -> [rows] activations of the prompt, layers in the order of the signal.
        z: layer name -> [rows] z-scores.
        settings: start, step and end of theta and k.
    """

    def __init__(
        self,
        activation: Mapping[str, torch.Tensor],
        z: Mapping[str, torch.Tensor],
        settings: LocalizeSettings,
    ) -> None:
        self.z = z
        self.by_activation = {
            name: values.argsort(descending=True, stable=True).tolist() for name, values in activation.items()
        }
        self.settings = settings

    @property
    def last(self) -> int:
        """The number of the last step that is tested."""
        ends = []
        if self.settings.use_theta:
            span = self.settings.theta_start - self.settings.theta_minimum
            ends.append(math.ceil(round(span / self.settings.theta_step, 9)) - 1)
        if self.settings.use_top_k:
            ends.append(self.settings.top_k_maximum - self.settings.top_k_start - 1)
            # From there on a step only chooses what the one before it did.
            widest = max(len(rows) for rows in self.by_activation.values())
            ends.append(widest - self.settings.top_k_start)
        return max(0, min(ends))

    def step(self, number: int) -> Step:
        """Theta and k of a step."""
        settings = self.settings
        theta = max(settings.theta_start - number * settings.theta_step, settings.theta_minimum)
        return Step(
            theta if settings.use_theta else None, settings.top_k_start + number if settings.use_top_k else 0
        )

    def likely(self) -> list[list[Neuron]]:
        """Parts of the first step's set that may break the memory by themselves; none if there is no choice.

        First the neuron that refinement most likely ends with. If it is not enough, the others: their test
        is one that refinement would ask for, whatever comes of it.
        """
        first = without_duplicates(self.neurons(0))
        ranked = by_importance(first, self.z)
        return [ranked[:1], ranked[1:]] if len(ranked) > 1 else []

    def neurons(self, number: int) -> list[Neuron]:
        """The candidate set of a step, in the published order, duplicates included."""
        step = self.step(number)
        chosen: list[Neuron] = []
        for name, order in self.by_activation.items():
            if step.theta is not None:
                chosen.extend((name, row) for row in (self.z[name] > step.theta).nonzero().flatten().tolist())
            chosen.extend((name, row) for row in order[: step.k])
        return chosen


def gallop(
    descent: Descent,
    test: Callable[[NeuronSet], Answer],
    score: Callable[[NeuronSet], float],
    threshold: float,
    guesses: Sequence[list[Neuron]] = (),
) -> Selection:
    """The same step as `published_walk.select` finds, wherever the score falls as neurons are added.

    The steps that the gallop leaps over are inferred from a tested one (`MonotoneOracle`), and tested after
    all where the scores seen on the way do not allow that, or where no step breaks the memory: that a prompt
    is unresolved is never inferred.

    Args:
        descent: the candidate sets.
        test: whether a set's score is at most the selection threshold; may stop early.
        score: the exact score of a set.
        threshold: of the selection.
        guesses: parts of the first step's set. If one breaks the memory, the whole does, without a test of
            its own.
    """
    last = descent.last
    tests: list[tuple[list[Neuron], Answer]] = []

    def answer(neurons: list[Neuron]) -> Answer:
        tests.append((neurons, test(NeuronSet.from_pairs(neurons))))
        return tests[-1][1]

    def nested(number: int) -> int:
        return (1 << number) - 1  # each step holds the sets of all earlier ones

    if any(answer(guess).broken for guess in guesses):
        return Selection(descent.neurons(0), descent.step(0), 1, None, True, tests)
    oracle = MonotoneOracle(lambda steps: answer(descent.neurons(steps.bit_length())), threshold)

    def breaks(number: int) -> bool:
        return oracle.guess(nested(number))

    failed, number = leap(breaks, last)
    broken = oracle.known[nested(number)].broken
    if broken:
        number = bisect(breaks, failed, number)
    for step in range(number):
        steps = nested(step)
        if steps not in oracle.known and not broken:
            oracle.learn(steps, oracle.test(steps))
        if breaks(step):
            number, broken = step, True
            break
    neurons = descent.neurons(number)
    reached = oracle.known[nested(number)]
    exact = reached.score if reached.exact else score(NeuronSet.from_pairs(neurons))
    return Selection(neurons, descent.step(number), number + 1, exact, broken, tests)


def walk_order(neurons: Sequence[Neuron]) -> list[Neuron]:
    """The order in which refinement tests single neurons: layers last to first, stored order in each."""
    layers = list(dict.fromkeys(layer for layer, _ in neurons))
    return [neuron for layer in reversed(layers) for neuron in neurons if neuron[0] == layer]


def by_importance(neurons: Sequence[Neuron], z: Mapping[str, torch.Tensor]) -> list[Neuron]:
    """The neurons, most likely to stay first: a guess that saves tests and never changes the result.

    First those that stand out, with z-scores of at least half the highest: where each can break the memory by
    itself, the one that is tested last stays, so they come in reversed walk order. Then the others, by
    z-score.
    """
    score = {neuron: float(z[neuron[0]][neuron[1]]) for neuron in neurons}
    highest = max(score.values(), default=0.0)
    outstanding = [neuron for neuron in reversed(walk_order(neurons)) if score[neuron] >= highest / 2]
    others = [neuron for neuron in neurons if score[neuron] < highest / 2]
    return outstanding + sorted(others, key=lambda neuron: -score[neuron])


def without_duplicates(neurons: Sequence[Neuron]) -> list[Neuron]:
    """Each neuron once, at the place of its LAST copy.

    The published refinement tests a duplicated neuron with one copy taken out, so that its last copy decides:
    from a set that scores below the threshold, an order without duplicates gives the same result.
    """
    return list(dict.fromkeys(reversed(neurons)))[::-1]
