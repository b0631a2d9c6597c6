"""The published search, one test per question: what the fast search must equal.

**Selection** (`select`): one evaluation per step of the descent (`surgery.localization.search.selection`),
until a step's set breaks the memory.

**Refinement** (`refine`): the smallest set that still breaks the memory, found by one test per layer and
neuron. Starting from the initial set:

1. Layers, last to first: re-enable all of a layer's neurons; if the memory stays broken, they leave for good.
2. Neurons, layers last to first, neurons in their stored order: re-enable one; if the memory stays broken, it
   leaves for good.

The order matters: of two neurons that can replace each other, the one tested later stays. The initial set is
a list with duplicates (top-k adds neurons that the z-score had chosen already). As published, a successful
test of a duplicated neuron drops only one copy, so the neuron stays off until its last copy has been tested
too.

`gallop` (selection) and `refine_fast` (certificate) reach the same sets in fewer tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from surgery.localization.search.selection import Descent, Neuron, Selection
from surgery.neurons import NeuronSet


def select(descent: Descent, score: Callable[[NeuronSet], float], threshold: float) -> Selection:
    """The published selection.

    Args:
        descent: the candidate sets.
        score: the exact score of a set.
        threshold: a set whose score is at most so high breaks the memory.
    """
    for number in range(descent.last + 1):
        neurons = descent.neurons(number)
        reached = score(NeuronSet.from_pairs(neurons))
        if reached <= threshold:
            break
    return Selection(neurons, descent.step(number), number + 1, reached, reached <= threshold)


def refine(initial: Sequence[Neuron], breaks: Callable[[NeuronSet], bool]) -> list[Neuron]:
    """The published refinement.

    Args:
        initial: the initial set, duplicates included, layers in the order of the signal.
        breaks: whether the memory is broken with a set off.

    Returns:
        The neurons that stay, in the initial order, without duplicates.
    """
    current = list(initial)
    layers = list(dict.fromkeys(layer for layer, _ in current))
    for layer in reversed(layers):
        others = [neuron for neuron in current if neuron[0] != layer]
        if breaks(NeuronSet.from_pairs(others)):
            current = others
    for layer in reversed(layers):
        for neuron in [neuron for neuron in current if neuron[0] == layer]:
            others = [other for other in current if other != neuron]
            if breaks(NeuronSet.from_pairs(others)):
                current.remove(neuron)
    return list(dict.fromkeys(current))
