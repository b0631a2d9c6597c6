"""Twelve neurons in three layers, sets of them as bits, and functions that say which sets break a memory."""

from hypothesis import strategies as st

from surgery.localization.search.published_walk import refine

LAYERS = ("down", "middle", "up")
NEURONS = [(layer, row) for layer in LAYERS for row in range(4)]
BIT = {neuron: 1 << place for place, neuron in enumerate(NEURONS)}
FULL = (1 << len(NEURONS)) - 1

subsets = st.integers(1, FULL)
# A monotone function is given by the sets that just suffice: a set breaks if it holds one of them.
monotone = st.lists(subsets, min_size=1, max_size=4).map(
    lambda enough: lambda off: any(some & off == some for some in enough)
)
# Any function at all, as long as the full set breaks and the empty one does not.
anything = st.integers(0, 2**32).map(
    lambda salt: lambda off: off == FULL or (off != 0 and hash((salt, off)) % 3 != 0)
)


def published(breaks, listed=NEURONS):
    kept = refine(listed, lambda off: breaks(sum(BIT[pair] for pair in off.pairs())))
    return sum(BIT[neuron] for neuron in kept)
