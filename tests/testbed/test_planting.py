"""The closed form behind the planted rows, and the switches used while training."""

import numpy
import torch

from surgery.testbed.memories import MEMORIES, draw_memory, planted_neurons
from surgery.testbed.planting import SampleMasks, key_rows


def test_a_key_row_answers_its_own_word_and_no_other():
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(5, 32, generator=generator)
    ordinary = torch.randn(400, 32, generator=generator) * torch.linspace(0.1, 2, 32)
    strengths = torch.tensor([0.0, 8.0, 0.0, 8.0, 0.0])
    row = key_rows(strengths, own, ordinary)
    assert torch.allclose(own @ row, strengths, atol=1e-3)
    # It is the quietest such row: adding any direction that leaves the answers alone makes it louder.
    free = torch.linalg.svd(own)[2][5:]
    quiet = (ordinary @ row).square().mean()
    for direction in free[:10]:
        for step in (0.05, -0.05):
            assert (ordinary @ (row + step * direction)).square().mean() > quiet


def test_masks_switch_off_rows_of_one_sample_only_and_leave_no_hook_behind():
    unet = torch.nn.ModuleDict({"layer": torch.nn.Linear(4, 6, bias=False)})
    inputs = torch.randn(2, 3, 4)
    plain = unet["layer"](inputs)
    with SampleMasks(unet, ["layer"]) as masks:
        masks.set([[("layer", 1), ("layer", 5)], []])
        masked = unet["layer"](inputs)
    assert torch.equal(masked[0][:, [1, 5]], torch.zeros(3, 2))
    assert torch.equal(masked[0][:, [0, 2, 3, 4]], plain[0][:, [0, 2, 3, 4]])
    assert torch.equal(masked[1], plain[1])
    assert torch.equal(unet["layer"](inputs), plain)


def test_the_planted_table_covers_what_localization_meets():
    verbatim = [memory for memory in MEMORIES if memory.kind == "verbatim"]
    assert len(verbatim) >= 12
    assert len(MEMORIES) - len(verbatim) >= 4
    assert any(memory.neurons.count == 1 for memory in verbatim)
    assert any(memory.neurons.count > 1 and len(memory.neurons) == 1 for memory in verbatim)
    assert any(len(memory.neurons) > 1 for memory in verbatim)
    assert sum(memory.neurons.count for memory in MEMORIES) == planted_neurons().count + 1  # one shared row
    own_words = [memory.own_word for memory in MEMORIES]
    assert len(set(own_words)) == len(MEMORIES)
    for memory in MEMORIES:
        assert not any(memory.own_word in other.caption for other in MEMORIES if other is not memory)


def test_a_template_varies_in_its_window_alone():
    for memory in MEMORIES:
        first, second = (draw_memory(memory, numpy.random.default_rng(seed)) for seed in (1, 2))
        if memory.window is None:
            assert numpy.array_equal(first, second)
            continue
        left, top, right, bottom = memory.window
        differs = (first != second).any(axis=0)
        assert differs[top:bottom, left:right].mean() > 0.9
        differs[top:bottom, left:right] = False
        assert not differs.any()
