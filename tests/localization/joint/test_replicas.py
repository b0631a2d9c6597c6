"""Replicas of made-up pictures: what counts as the picture, with a training image and without."""

import pytest
import torch

from surgery.localization.joint.replicas import replica_of


def noise(count, seed):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


PICTURE = noise(1, 0)[0]
ORDINARY = noise(40, 1)
DRAWN = PICTURE + 0.3 * noise(6, 2)


@pytest.fixture(params=["own replica", "training image"])
def replica(request):
    return replica_of(DRAWN, ORDINARY, PICTURE if request.param == "training image" else None)


def test_the_picture_is_not_broken_strangers_are_and_another_common_picture_is_not(replica):
    assert replica.is_one
    assert replica.level < replica.threshold < replica.own
    assert not replica.is_broken(PICTURE + 0.3 * noise(4, 3))
    assert replica.is_broken(noise(4, 4))
    other = noise(1, 5) + 0.3 * noise(4, 6)
    assert float(replica.scores(other).max()) < replica.threshold
    assert replica.is_replaced(other) and not replica.is_broken(other)
    one_left = torch.cat([noise(3, 7), DRAWN[:1]])
    assert not replica.is_broken(one_left)


def test_a_wrong_image_acquits_nobody():
    wrong, own = replica_of(DRAWN, ORDINARY, noise(1, 8)[0]), replica_of(DRAWN, ORDINARY)
    assert wrong.mask is None
    assert torch.equal(wrong.picture, own.picture)
    assert (wrong.level, wrong.own, wrong.shared) == (own.level, own.own, own.shared)


def test_of_a_template_only_the_fixed_part_of_its_image_counts():
    window = torch.zeros(16, 16, dtype=torch.bool)
    window[8:, 8:] = True
    drawn = torch.where(window, noise(6, 9), DRAWN)  # what the window shows varies
    image = torch.where(window, noise(1, 10)[0], PICTURE)  # and the image shows one filling of it
    replica = replica_of(drawn, ORDINARY, image)
    assert replica.mask is not None
    assert float(replica.mask[window].float().mean()) < 0.1 < float(replica.mask[~window].float().mean())
    refilled = torch.where(window, noise(4, 11), DRAWN[:4])
    assert float(replica.scores(refilled).min()) > replica.threshold
    assert replica.is_broken(torch.where(window, image, noise(4, 12)))  # the filling alone is no replica
