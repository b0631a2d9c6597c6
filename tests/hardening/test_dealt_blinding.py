"""Blinding dealt out: states and layers to every process, and the weights of one process, bit by bit."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as draw
from launched import in_threads

from surgery.auditing.budget import counted
from surgery.auditing.canaries import own_copy
from surgery.hardening import blinding
from surgery.hardening.blinding import blind
from surgery.hardening.dealing import Dealer
from surgery.hardening.material import zero_rows
from surgery.hardening.pools import Pools
from surgery.hardening.settings import HardenSettings
from surgery.hardening.squares import Squares, fold
from surgery.model.work import Work
from surgery.neurons import NeuronSet
from surgery.testbed.load import read_ground_truth

MEMORIES = read_ground_truth()[:2]
NEURONS = NeuronSet().union(*(memory.neurons for memory in MEMORIES))
SETTINGS = HardenSettings(
    surrogates=1, positions=2, ordinary=3, neighbors=0, gate_controls=1, drawing_steps=2, blinding_states=7,
    batch_size=1,
)  # fmt: skip
MOST_INPUTS = 70  # of the layers that are made blind here: about half of all


@pytest.fixture(scope="module")
def material(gathered):
    return gathered(MEMORIES, NEURONS, SETTINGS)


@pytest.fixture
def run(source, material, monkeypatch):
    """What so many processes make of the model: weights, forwards run and forwards booked by rank, and who
    solved which layer.
    """
    monkeypatch.setattr("surgery.hardening.layer_inputs.MOST_INPUTS", MOST_INPUTS)
    real = blinding.solved

    def run(count):
        students = [own_copy(source) for _ in range(count)]
        solvers, ran = [], [Work() for _ in students]
        monkeypatch.setattr(blinding, "solved", lambda name, sums: solvers.append(name) or real(name, sums))

        def work(processes):
            student = students[processes.rank]
            zero_rows(student, NEURONS)
            dealer = Dealer(processes=processes)
            with counted(student, dealer.work), counted(student, ran[processes.rank]):
                blind(student, material, Pools.of(len(MEMORIES)), SETTINGS, 0, dealer)
            return student.denoiser.state_dict(), dealer.work.unet_sample_forwards

        found = in_threads(count, work)
        spent = [one.unet_sample_forwards for one in ran]
        return [weights for weights, _ in found], spent, [booked for _, booked in found], Counter(solvers)

    return run


@pytest.mark.parametrize("most_shared", [blinding.MOST_SHARED, 0], ids=["small passes", "large passes"])
def test_processes_end_with_the_weights_of_one(source, run, monkeypatch, most_shared):
    """Small passes are worked on by all, their sums cross in several bundles; large ones go to one each."""
    monkeypatch.setattr(blinding, "MOST_SHARED", most_shared)
    monkeypatch.setattr("surgery.hardening.dealing.BUNDLE_BYTES", 400_000)
    monkeypatch.setattr(blinding, "MOST_BYTES", 3_000_000)
    (alone,), (spent,), _, solved = run(1)
    names = [name for layers in blinding.passes_of(source.denoiser) for name in layers]
    passes = len(blinding.passes_of(source.denoiser))
    assert passes > 1 and spent == 3 * SETTINGS.blinding_states * passes
    assert sorted(solved.elements()) == sorted(names)
    before = source.denoiser.state_dict()
    changed = [name for name in names if not torch.equal(alone[f"{name}.weight"], before[f"{name}.weight"])]
    assert len(changed) > len(names) / 2, "all but those that no attack reaches"
    for count in (2, 3):
        weights, shares, booked, solved = run(count)
        assert all(torch.equal(one[name], value) for one in weights for name, value in alone.items())
        assert solved == Counter(names), "each layer is solved once, whoever does it"
        assert sum(shares) == spent and booked == [spent] * count
        assert max(shares) < spent, "no process runs all states"


@given(
    draw.sampled_from([1, 2, 4, 8]).flatmap(
        lambda parts: draw.lists(draw.integers(0, 3), min_size=parts, max_size=parts)
    )
)
def test_parts_add_up_to_the_same_bits_whoever_had_them(owners):
    layer = torch.nn.Linear(5, 2)
    parts = [Squares(layer) for _ in owners]
    for number, part in enumerate(parts):
        part.numbers += torch.rand(part.numbers.shape, generator=torch.Generator().manual_seed(number))

    def folded(groups):
        met = {}
        for group in groups:
            own = {(part, 1): {"one": Squares(layer, parts[part].numbers.clone())} for part in group}
            fold(own)
            met.update(own)
        fold(met)
        ((span, sums),) = met.items()
        assert span == (0, len(parts))
        return sums["one"].numbers

    dealt = [[part for part, owner in enumerate(owners) if owner == one] for one in range(4)]
    assert torch.equal(folded(dealt), folded([range(len(parts))]))


@given(draw.dictionaries(draw.text("abc", min_size=1), draw.integers(0, 1000)), draw.integers(1, 5))
def test_no_process_gets_more_than_its_share_and_one_layer(costs, count):
    dealt = blinding._dealt_by_cost(costs, count)
    loads = [sum(costs[name] for name in costs if dealt[name] == rank) for rank in range(count)]
    assert set(dealt) == set(costs)
    assert max(loads) <= sum(costs.values()) / count + max(costs.values(), default=0)
