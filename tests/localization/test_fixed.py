"""What stays fixed, on fields whose fixed part is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.localization.fixed import LEAST_SHARE, TILES, fixed_mask, fixed_tiles, tile_agreement


def seeds_of(fixed, seeds, strength, seed, side=32):
    """Fields of several seeds: the same picture in the fixed tiles, another one in each of the others."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, 3, side, side, generator=generator)
    own = torch.randn(seeds, 3, side, side, generator=generator)
    mask = fixed.repeat_interleave(side // TILES, 0).repeat_interleave(side // TILES, 1)
    return torch.where(mask, strength * shared + (1 - strength) * own, own)


@given(st.integers(4, TILES * TILES), st.integers(0, 1000), st.integers(4, 8))
@settings(max_examples=60, deadline=None)
def test_the_tiles_that_are_the_same_at_every_seed_are_found(count, seed, seeds):
    places = torch.randperm(TILES * TILES, generator=torch.Generator().manual_seed(seed))[:count]
    fixed = torch.zeros(TILES * TILES, dtype=torch.bool)
    fixed[places] = True
    fields = seeds_of(fixed.view(TILES, TILES), seeds, 0.9, seed)
    assert torch.equal(fixed_tiles(fields).flatten(), fixed)
    order = torch.randperm(seeds, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(fixed_mask(fields[order]), fixed_mask(fields))
    assert torch.equal(fixed_mask(3.0 * fields + 1.0), fixed_mask(fields))


def test_independent_seeds_agree_nowhere_and_equal_ones_everywhere():
    independent = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert tile_agreement(independent).max() < 0.15
    torch.testing.assert_close(tile_agreement(independent[:1].repeat(8, 1, 1, 1)), torch.ones(TILES, TILES))
    # Even there a quarter of the tiles is named: one chance agreement must not stand for the picture.
    assert fixed_tiles(independent).float().mean() >= LEAST_SHARE
    assert fixed_tiles(independent[:1]).all()  # of a single seed nothing is known


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 30), (64, 48)])
def test_a_mask_has_the_size_of_its_fields(height, width):
    mask = fixed_mask(torch.randn(5, 3, height, width, generator=torch.Generator().manual_seed(1)))
    assert mask.shape == (height, width)
    assert mask.any()
