"""MS-SSIM against torchmetrics, and the two criteria against hand-made noise differences."""

import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.criteria import of_all_pairs
from surgery.localization.ms_ssim import (
    BETAS,
    Window,
    ms_ssim,
    pairwise_scores,
    pairwise_scores_of_many,
    window_of,
)


def pictures(count, side, seed, channels=4):
    noise = torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(noise, (1, 1, 1, 1)), 3, 1)


def by_torchmetrics(first, second, window):
    return torch.stack(
        [
            multiscale_structural_similarity_index_measure(
                one[None],
                other[None],
                sigma=window.sigma,
                kernel_size=min(window.taps, side_limit(one.shape[-1])),  # only checked against the size
                betas=BETAS,
                normalize="relu",
            )
            for one, other in zip(first, second, strict=True)
        ]
    )


def side_limit(side):
    return side // 4 - 1 + side // 4 % 2


@pytest.mark.parametrize(("side", "taps"), [(64, 11), (32, 9), (16, 5), (24, 7), (96, 11), (128, 11)])
def test_ms_ssim_equals_torchmetrics_with_the_window_that_fits(side, taps):
    window = window_of(side, side)
    assert window.taps == taps
    first, second = pictures(6, side, 1), pictures(6, side, 2)
    for weight in (0.0, 0.3, 0.9):
        mixed = weight * first + (1 - weight) * second
        torch.testing.assert_close(ms_ssim(first, mixed, window), by_torchmetrics(first, mixed, window))


def test_with_one_range_a_batch_scores_as_torchmetrics_scores_it():
    window, first = window_of(16, 16), pictures(6, 16, 1)
    second = 0.3 * first + 0.7 * pictures(6, 16, 2)
    second[2] *= 0.5  # a pair whose own range is far from the batch's
    published = multiscale_structural_similarity_index_measure(
        first, second, sigma=window.sigma, kernel_size=3, betas=BETAS, normalize="relu", reduction="none"
    )
    together = ms_ssim(first, second, window, one_range=True)
    torch.testing.assert_close(together, published)
    assert (together - ms_ssim(first, second, window)).abs().max() > 1e-3
    pairs = pairwise_scores(first, window, one_range=True)
    rows, columns = torch.triu_indices(6, 6, offset=1)
    torch.testing.assert_close(
        pairs[rows, columns], ms_ssim(first[rows], first[columns], window, one_range=True)
    )


def test_equal_pictures_score_one_and_inverted_ones_nothing():
    first = pictures(3, 16, 3)
    torch.testing.assert_close(ms_ssim(first, first), torch.ones(3))
    assert ms_ssim(first, first.amax() - first).max() < 0.05


def test_constant_pictures_give_a_number():
    flat = torch.full((1, 4, 16, 16), 0.5)
    assert torch.isfinite(ms_ssim(flat, pictures(1, 16, 4))).all()
    torch.testing.assert_close(ms_ssim(flat, flat), torch.ones(1))


def test_latents_too_small_for_three_scales_are_refused():
    assert window_of(8, 64) == Window(3, 0.3)
    with pytest.raises(UsageError, match="too small for three scales"):
        window_of(7, 64)


def test_every_pair_is_scored_once_and_the_same_in_any_batch():
    many = torch.stack([pictures(5, 16, seed) for seed in range(3)])
    scores = pairwise_scores_of_many(many)
    assert scores.shape == (3, 5, 5)
    torch.testing.assert_close(scores, scores.transpose(1, 2))
    torch.testing.assert_close(scores[1], pairwise_scores(many[1]))
    torch.testing.assert_close(scores[1][3, 1], ms_ssim(many[1, 3:4], many[1, 1:2])[0])
    off_diagonal = [float(scores[0][i, j]) for i in range(5) for j in range(5) if i != j]
    assert of_all_pairs(scores[0], 5) == pytest.approx(sum(off_diagonal) / 20)


@pytest.mark.parametrize("name", ["seeds-diverge", "noise-changed"])
def test_the_first_seeds_bound_the_score_from_below(name):
    criterion = registry.criterion(name)
    for seed in range(5):
        ablated, unablated = pictures(8, 16, seed), pictures(8, 16, 100 + seed)
        ablated[3] = 0.7 * unablated[3] + 0.3 * ablated[3]
        window = window_of(16, 16)
        bounds = [
            criterion.score_of(criterion.parts(ablated[:seen], lambda some=unablated[:seen]: some, 8, window))
            for seen in range(1, 9)
        ]
        assert bounds == sorted(bounds)
        exact = {
            "seeds-diverge": of_all_pairs(pairwise_scores(ablated), 8),
            "noise-changed": float(ms_ssim(ablated, unablated, one_range=True).max()),
        }
        assert bounds[-1] == pytest.approx(exact[name])


def test_the_published_gate_keeps_the_seeds_with_a_twin():
    scores = torch.eye(4)
    scores[0, 2] = scores[2, 0] = 0.8
    scores[1, 3] = scores[3, 1] = 0.3
    gate = registry.criterion("noise-changed").gate(scores, 0.5)
    assert (gate.kept, gate.score) == ((0, 2), pytest.approx(0.8))
    # The mean over all pairs is 2.2 / 12: below the threshold no seed is kept, above it all are.
    ours = registry.criterion("seeds-diverge")
    assert ours.gate(scores, 0.5).kept == ()
    assert ours.gate(scores, 0.1).kept == (0, 1, 2, 3)
    assert ours.gate(scores, 0.1).score == pytest.approx(2.2 / 12)
