"""The joint search against brute force, on set systems whose best mask can be enumerated."""

import itertools

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.localization.joint.search import JointSearch


class Additive:
    """Diffuse memories: a prompt is broken once the effects of what is off add up to its need."""

    def __init__(self, effects, needs, costs=None):
        self.table = numpy.array(effects, dtype=float)
        self.needs = needs
        self.prompts, self.neurons = self.table.shape
        self.cost = numpy.ones(self.neurons) if costs is None else numpy.array(costs, dtype=float)

    def broken(self, prompt, off):
        return self.table[prompt, list(off)].sum() >= self.needs[prompt]

    def effects(self, prompt, off):
        return self.table[prompt], self.needs[prompt] - self.table[prompt, list(off)].sum()

    def costs(self, off):
        return self.cost


class Alternatives:
    """Switches: a prompt is broken once any one of some sets is off as a whole."""

    def __init__(self, sets, neurons):
        self.sets = [[frozenset(one) for one in some] for some in sets]
        self.prompts, self.neurons = len(sets), neurons

    def broken(self, prompt, off):
        return any(one <= off for one in self.sets[prompt])

    def effects(self, prompt, off):
        found = numpy.zeros(self.neurons)
        for one in self.sets[prompt]:
            for neuron in one - off:
                found[neuron] = max(found[neuron], 1 / len(one - off))
        return found, 1.0

    def costs(self, off):
        return numpy.ones(self.neurons)


def optimum(system):
    """The size of the smallest mask that breaks all prompts; None if there is none."""
    for size in range(system.neurons + 1):
        for off in itertools.combinations(range(system.neurons), size):
            if all(system.broken(prompt, frozenset(off)) for prompt in range(system.prompts)):
                return size
    return None


def judged(system, start=()):
    """The mask found, with what must hold of every one checked."""
    search = JointSearch(system)
    found = search.run(start)
    everyone = set(range(system.prompts))
    # no neuron was released that is needed: whoever can be broken is
    assert {prompt for prompt in everyone if not system.broken(prompt, found.off)} == set(found.stays)
    assert set(found.certificates) == everyone - set(found.stays)
    for prompt, one in found.certificates.items():
        assert one <= found.off
        assert system.broken(prompt, one)
    # none is kept that is not
    for neuron in found.off:
        assert any(not system.broken(prompt, found.off - {neuron}) for prompt in everyone - set(found.stays))
    return found, search


@st.composite
def additive(draw):
    prompts, neurons = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    row = st.lists(st.integers(0, 4), min_size=neurons, max_size=neurons)
    effects = draw(st.lists(row, min_size=prompts, max_size=prompts))
    return Additive(effects, [draw(st.integers(1, max(1, sum(one)))) for one in effects])


@st.composite
def alternatives(draw):
    neurons = draw(st.integers(2, 8))
    one = st.sets(st.integers(0, neurons - 1), min_size=1, max_size=3)
    return Alternatives(
        draw(st.lists(st.lists(one, min_size=1, max_size=3), min_size=1, max_size=4)), neurons
    )


@given(st.one_of(additive(), alternatives()), st.data())
@settings(max_examples=400, deadline=None)
def test_never_more_than_twice_the_smallest_mask(system, data):
    start = data.draw(st.sets(st.integers(0, system.neurons - 1)))
    best = optimum(system)
    found, _ = judged(system, start)
    if best is None:
        assert found.stays
    else:
        assert not found.stays
        assert len(found.off) <= 2 * best
