"""The published search, one test per question: what the fast search must equal.

**Selection** (`select`): one evaluation per step of the descent (`surgery.localization.search.selection`),
until a step's set breaks the memory.

**Refinement** (`refine`): the smallest set that still breaks the memory, found by one test per layer and
neuron. Starting from the initial set:

1. Layers, last to first: re-enable all of a layer's neurons; if the memory stays broken, they leave for good.
2. Neurons, layers last to first, neurons in their stored order: re-enable one; if the memory stays broken, it
   leaves for good.

The order matters: of two neurons that can replace each other, the one tested later stays. The initial set is
a list with duplicates (top-k adds neurons that the z-score had chosen already). As published, a duplicated
neuron is tested with ONE copy taken out: a test of the same set again, which succeeds wherever the set at
hand scores below the threshold. So its last copy decides, at that copy's place; and where the threshold is
the initial set's own score (an unresolved prompt), no copy leaves until something else has lowered the score.

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
            others = list(current)
            others.remove(neuron)  # one copy
            if breaks(NeuronSet.from_pairs(others)):
                current = others
    return list(dict.fromkeys(current))
