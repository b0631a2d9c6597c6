"""The joint search against brute force, on set systems whose best mask can be enumerated."""

import itertools
import math

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.localization.joint.budget import frontier
from surgery.localization.joint.search import JointSearch, _near


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


def judged(system, own=None):
    """The mask found, with what must hold of every one checked."""
    search = JointSearch(system)
    found = search.run(own)
    search.certify(found)
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
@settings(max_examples=200, deadline=None)
def test_never_more_than_twice_the_smallest_mask(system, data):
    some = st.frozensets(st.integers(0, system.neurons - 1))  # right or wrong
    own = data.draw(st.dictionaries(st.integers(0, system.prompts - 1), some))
    best = optimum(system)
    found, _ = judged(system, own)
    if best is None:
        assert found.stays
    else:
        assert not found.stays
        assert len(found.off) <= 2 * best


class Returning(Additive):
    """Prompt 1 is broken by neuron 1, unless prompt 0's neuron is off as well: then it takes neuron 2 too."""

    def __init__(self):
        super().__init__([[5, 0, 0], [0, 5, 3]], [5, 5])

    def broken(self, prompt, off):
        if prompt == 1 and 0 in off:
            return {1, 2} <= off
        return super().broken(prompt, off)

    def effects(self, prompt, off):
        effects, lack = super().effects(prompt, off)
        return effects, lack if prompt == 0 or 0 not in off else 8 - self.table[1, list(off)].sum()


def test_a_memory_that_comes_back_when_another_s_neurons_go_is_localized_again():
    found, search = judged(Returning())
    assert found.off == {0, 1, 2}
    assert found.stays == ()
    assert search.asked.is_broken(1, frozenset({1}))  # alone, it seemed settled


def test_two_memories_that_share_a_neuron_end_with_it_alone():
    system = Alternatives([[{0}, {2}], [{1}, {2}]], 3)
    found, _ = judged(system, {0: {0}, 1: {1}})  # what each search by itself came back with
    assert found.off == {2}
    assert found.certificates == {0: {2}, 1: {2}}


def test_a_prompt_that_nothing_breaks_is_named_and_costs_the_others_nothing():
    found, _ = judged(Additive([[1, 0, 0], [0, 1, 1]], [9, 2]))
    assert found.stays == (0,)
    assert found.off == {1, 2}


@given(additive(), st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_a_budget_is_kept_exactly_and_who_fits_is_served(system, most):
    search = JointSearch(system)
    found = search.run()
    search.certify(found)
    points = frontier(found.certificates, system.costs, lambda off: len(off) <= most)
    best = points[-1]
    assert len(best.off) <= most
    assert all(search.asked.is_broken(prompt, best.off) for prompt in best.prompts)
    for earlier, later in itertools.pairwise(points):
        assert earlier.off <= later.off
        assert set(earlier.prompts) < set(later.prompts)
    for prompt, one in found.certificates.items():  # whoever was passed over does not fit
        assert (prompt in best.prompts) or len(best.off | one) > most


def test_tests_grow_with_the_logarithm_of_what_is_kept():
    # 12 diffuse memories on 200 neurons; 8 of them are strong for everyone, the others matter little
    chance = numpy.random.default_rng(3)
    effects = chance.uniform(0, 0.02, (12, 200))
    effects[:, :8] = chance.uniform(0.5, 1.5, (12, 8))
    system = Additive(effects, [3.0] * 12)
    found, search = judged(system)
    kept = len(found.off)
    assert kept <= 8
    assert search.asked.evaluations <= system.prompts * (math.log2(kept) + 2) + 2 * kept


def test_what_the_prompts_own_searches_found_spares_tests():
    # a switch each, and two prompts that share one; attributions see nothing of it
    switches = [{0}, *({place} for place in range(16))]
    system = Alternatives([[one] for one in switches], 40)
    system.effects = lambda prompt, off: (numpy.full(40, 1e-3), 1.0)
    own = {prompt: frozenset(one) for prompt, one in enumerate(switches)}
    found, search = judged(system, own)
    assert found.off == set(range(16))
    assert [found.certificates[prompt] for prompt in range(17)] == [frozenset(one) for one in switches]
    assert search.asked.evaluations <= 17 * (math.log2(16) + 2)
    assert search.asked.attributions == 17


@given(st.integers(1, 200), st.data())
def test_a_prefix_is_found_to_within_a_quarter(last, data):
    lowest, start = data.draw(st.integers(1, last)), data.draw(st.integers(1, last))
    asked = []

    def breaks(count):
        assert 1 <= count <= last
        asked.append(count)
        return count >= lowest

    found = _near(breaks, start, last)
    assert lowest <= found
    assert found - lowest < max(1, found // 4)
    assert len(asked) <= 2 * abs(math.log2(lowest / start)) + 6
