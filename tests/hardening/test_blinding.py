"""Layers made blind in closed form: exact where it can be, and on the testbed without a single gradient."""

from dataclasses import replace

import pytest
import torch

from surgery.auditing.attack.conditioned import draw_conditioned
from surgery.auditing.canaries import own_copy
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.measures.utility import ordinary_change
from surgery.errors import SurgeryError
from surgery.hardening import blinding
from surgery.hardening.blinding import blind, passes_of
from surgery.hardening.layer_inputs import inputs_of, patches
from surgery.hardening.material import zero_rows
from surgery.hardening.pools import Pools
from surgery.hardening.settings import HardenSettings
from surgery.hardening.squares import Squares
from surgery.hardening.training import Trainer
from surgery.measures.similarity import named_similarity
from surgery.model.injection import injected
from surgery.neurons import NeuronSet
from surgery.testbed.load import read_ground_truth, read_ordinary_prompts

MEMORIES = [memory for memory in read_ground_truth() if memory.name in ("boat", "moon")]
NEURONS = NeuronSet().union(*(memory.neurons for memory in MEMORIES))
ORDINARY, EDGES = read_ordinary_prompts(), named_similarity("edges")
SETTINGS = HardenSettings(
    surrogates=1, positions=8, ordinary=24, neighbors=1, gate_controls=1, drawing_steps=4,
    blinding=0.01, blinding_states=192,
)  # fmt: skip


@pytest.fixture(scope="module")
def material(gathered):
    return gathered(MEMORIES, NEURONS, SETTINGS)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("outputs", [3, 7])
def test_what_is_kept_stays_and_what_is_attacked_goes(biased, outputs):
    """Kept inputs span half of the space, the attack another direction: both wishes are met exactly."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, outputs, bias=biased)
    kept = torch.cat([torch.randn(200, 4), torch.zeros(200, 4)], 1)
    attacked = kept.clone()
    attacked[:, 6] = 2.0
    before = layer(kept).detach()
    assert not torch.allclose(layer(attacked), before, atol=0.1)
    blinding._put(layer, blinding.solved("layer", squares_of(layer, kept, attacked)))
    assert torch.allclose(layer(kept), before, atol=0.02)
    assert torch.allclose(layer(attacked), before, atol=0.02)


def squares_of(layer, kept, attacked):
    """The sums of a layer over kept states, and over attacked ones that have the weight of them all."""
    bias = [torch.ones(len(kept), 1)] if layer.bias is not None else []
    kept, attacked = (torch.cat([one, *bias], 1)[:, None] for one in (kept, attacked))
    weights = torch.full((len(kept),), 1 / len(kept))
    squares = Squares(layer)
    with torch.no_grad():
        squares.add_seen(kept, weights)
        squares.add_seen(attacked, weights)
        squares.add_shift(attacked, kept, weights)
    return squares


@pytest.mark.parametrize("outputs", [20, 200])
def test_the_new_weights_are_those_of_the_formula(outputs):
    """More inputs than a strip has rows; what the formula says, in float64 and with all squares whole."""
    torch.manual_seed(2)
    layer = torch.nn.Linear(300, outputs)
    kept, attacked = torch.randn(2, 900, 300)
    found = blinding.solved("layer", squares_of(layer, kept, attacked))
    ones = torch.ones(900, 1)
    kept, attacked = (torch.cat([one, ones], 1).double() for one in (kept, attacked))
    old = torch.cat([layer.weight, layer.bias[:, None]], 1).double()
    system = (kept.T @ kept + attacked.T @ attacked) / 900
    system += blinding.RIDGE * system.diagonal().mean() * torch.eye(301)
    wanted = old - old @ ((attacked - kept).T @ attacked / 900) @ system.inverse()
    assert torch.allclose(found.double(), wanted, atol=1e-5)


def test_inputs_that_are_not_finite_are_an_error():
    layer = torch.nn.Linear(4, 2)
    kept = torch.full((3, 4), torch.inf)
    with pytest.raises(SurgeryError, match=r"mid\.to_q: reads numbers that are not finite"):
        blinding.solved("mid.to_q", squares_of(layer, kept, kept))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), ((1, 3), 1, (0, 1))]
)
def test_what_a_convolution_reads_gives_what_it_says(kernel, stride, padding):
    torch.manual_seed(1)
    layer = torch.nn.Conv2d(3, 5, kernel, stride, padding)
    given = torch.randn(2, 3, 8, 6)
    said = layer(given).flatten(2)
    places = torch.randperm(said.shape[-1])[:7]
    read = patches(layer, given, places, layer(given).shape[-1])
    answer = read @ layer.weight.flatten(1).T + layer.bias
    assert torch.allclose(answer, said[:, :, places].transpose(1, 2), atol=1e-5)


def test_passes_hold_every_layer_once_and_no_more_than_fits(source, monkeypatch):
    denoiser = source.denoiser
    (together,) = passes_of(denoiser)
    layers = dict(denoiser.named_modules())
    assert not any(name.endswith(("attn2.to_k", "attn2.to_v")) or "time_emb" in name for name in together)
    largest = max(Squares.bytes_of(layers[name]) for name in together)
    assert largest == max(Squares(layers[name]).numbers.nbytes for name in together)
    monkeypatch.setattr(blinding, "MOST_BYTES", largest)
    apart = passes_of(denoiser)
    assert len(apart) > 2 and [name for names in apart for name in names] == together
    assert all(sum(Squares.bytes_of(layers[name]) for name in names) <= largest for names in apart)


def test_layers_of_several_passes_are_solved_from_the_model_as_it_was(source, material, monkeypatch):
    """Of layers one behind the other, none may rely on what an earlier pass shut out."""
    layers = dict(source.denoiser.named_modules())
    behind = [name for name in passes_of(source.denoiser)[0] if name.startswith(("mid_block", "up_blocks"))]
    small = [name for name in behind if inputs_of(layers[name]) <= 65]
    chosen, found = [small[len(small) * share // 4] for share in (1, 2, 3)], []
    for passes in ([chosen], [[name] for name in chosen]):
        student = own_copy(source)
        zero_rows(student, NEURONS)
        monkeypatch.setattr(blinding, "passes_of", lambda _, passes=passes: passes)
        blind(student, material, Pools.of(2), replace(SETTINGS, blinding=1.0, blinding_states=16), 0)
        found.append([student.denoiser.get_submodule(name).weight for name in chosen])
    for name, together, apart in zip(chosen, *found, strict=True):
        assert not torch.equal(together, layers[name].weight)
        assert torch.allclose(together, apart, atol=1e-6), name


def test_triggers_draw_nothing_after_blinding_and_ordinary_prompts_stay(source, material):
    student = own_copy(source)
    zero_rows(student, NEURONS)

    def best():
        constants = {
            name: torch.cat([memory.trigger[name] for memory in material.memories])
            for name in material.memories[0].trigger
        }

        def around(places):
            return injected(student.denoiser, {name: value[places] for name, value in constants.items()})

        drawn = draw_conditioned(student, material.empty.repeat(2), [3], Drawing(10, 1.0, 8), around)
        return [
            float(similarities_to(pictures, memory.compared, EDGES).max())
            for pictures, memory in zip(drawn, material.memories, strict=True)
        ]

    assert min(best()) > 0.6
    blind(student, material, Pools.of(2), SETTINGS, 0)
    assert max(best()) < 0.4
    blinded = ordinary_change(source, student, ORDINARY[-4:], (0, 1), 4, 8, quiet=True).total
    assert blinded < 0.3, "a few states only, yet most of what ordinary prompts say stays"
    settings = replace(SETTINGS, repair_steps=20, keep_batch=16)
    names = [name for name, _ in student.denoiser.named_parameters()]
    terms = Trainer(student, material, NEURONS, settings, names).repair(0)
    repaired = ordinary_change(source, student, ORDINARY[-4:], (0, 1), 4, 8, quiet=True).total
    assert list(terms) == ["repair"] and repaired < blinded
    assert max(best()) < 0.4, "ordinary prompts know nothing of the memories"
