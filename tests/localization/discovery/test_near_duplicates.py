"""The hash survives what copies go through, and the banded lookup finds what comparing all pairs finds."""

import io

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from surgery.errors import UsageError
from surgery.localization.discovery.hashes import BITS, as_array, distances, file_hash, picture_hash
from surgery.localization.discovery.near_duplicates import LARGEST_RADIUS, near_duplicates
from surgery.localization.discovery.training_images import RADIUS, copies_of
from surgery.testbed.pictures import draw_scene


def scene(number: int) -> Image.Image:
    """A random composition of shapes, 64 x 64."""
    array = draw_scene(numpy.random.default_rng((5, number)))
    return Image.fromarray(((array.transpose(1, 2, 0) + 1) * 127.5).round().astype("uint8"))


def recompressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(io.BytesIO(buffer.getvalue()))


def shifted(picture: Image.Image) -> Image.Image:
    return picture.crop((1, 1, 64, 64)).resize((64, 64))


def brighter(picture: Image.Image) -> Image.Image:
    return picture.point(lambda value: min(255, int(value * 1.15)))


@some.composite
def hashes(draw):
    """Some random hashes, and copies of them with up to 20 bits flipped."""
    words = some.integers(0, 2**BITS - 1)
    found = draw(some.lists(words, min_size=1, max_size=40))
    for _ in range(draw(some.integers(0, 20))):
        flips = draw(some.lists(some.integers(0, BITS - 1), max_size=20, unique=True))
        found.append(draw(some.sampled_from(found)) ^ sum(1 << place for place in flips))
    return as_array(found)


@settings(max_examples=40, deadline=None)
@given(hashes(), some.integers(0, LARGEST_RADIUS))
def test_the_lookup_finds_what_comparing_all_with_all_finds(found, radius):
    near = distances(found[:, None], found[None]) <= radius
    expected = near.sum(1) - 1
    result = near_duplicates(found, radius)
    assert result.copies.tolist() == expected.tolist()
    values = {tuple(sorted(map(int, found[list(pair)]))) for pair in result.pairs}
    wanted = {
        tuple(sorted((int(found[one]), int(found[other]))))
        for one, other in numpy.argwhere(near)
        if found[one] != found[other]
    }
    assert values == wanted
    assert len(result.pairs) == len(wanted), "each pair of different hashes once"


@settings(max_examples=50, deadline=None)
@given(some.integers(0, 2**BITS - 1), some.integers(0, 2**BITS - 1))
def test_distances_count_bits(first, second):
    assert distances(as_array([first]), as_array([second]))[0] == (first ^ second).bit_count()


def test_many_equal_pictures_cost_nothing_and_all_count():
    found = near_duplicates(as_array([7] * 50_000 + [7 ^ 1] + [2**63]), RADIUS)
    assert set(found.copies.tolist()) == {50_001}  # all others, which are at most five bits away
    assert len(found.pairs) == 3


@pytest.mark.parametrize("change", [recompressed, shifted, brighter, lambda one: one.resize((32, 32))])
def test_copies_stay_near_and_strangers_are_far(change):
    pictures = [scene(number) for number in range(60)]
    before = as_array(map(picture_hash, pictures))
    after = as_array(picture_hash(change(picture)) for picture in pictures)
    apart = distances(before[:, None], after[None])
    assert (numpy.diagonal(apart) <= RADIUS).mean() >= 0.95
    strangers = apart[~numpy.eye(len(pictures), dtype=bool)]
    assert strangers.min() > RADIUS
    assert 28 < strangers.mean() < 36


def test_a_picture_of_one_color_has_no_hash():
    assert picture_hash(Image.new("RGB", (64, 64), (250, 250, 250))) is None


def test_captions_find_their_pictures_by_table_text_file_name_and_number(tmp_path):
    prompts = ["A red boat!", "a house", "third", "fourth", "nobody's"]
    folder = tmp_path / "named"
    folder.mkdir()
    scene(1).save(folder / "a-red-boat.png")
    shifted(scene(1)).save(folder / "2.png")  # the second prompt's, by its number
    scene(2).save(folder / "x.png")
    (folder / "x.txt").write_text("third\n")
    scene(3).save(folder / "4.png")
    recompressed(scene(2)).save(folder / "stranger.png")
    Image.new("RGB", (64, 64), "white").save(folder / "fourth.png")
    seen = []
    found = copies_of(folder, prompts, progress=seen.append)
    assert found.of_caption == {"A red boat!": 1, "a house": 1, "third": 1}
    assert (found.pictures, found.featureless, found.without_caption, found.duplicated) == (6, 1, 1, 4)
    assert seen == [1, 2, 3, 4, 5, 6]
    (folder / "images.csv").write_text("prompt,image\nfourth,x.png\nfourth,4.png\na house,stranger.png\n")
    assert copies_of(folder, prompts).of_caption == {"fourth": 1, "a house": 1}


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        copies_of(tmp_path / "none", ["a"])
    with pytest.raises(UsageError, match="holds no picture"):
        copies_of(tmp_path, ["a"])
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="cannot be read as a picture"):
        file_hash(tmp_path / "a.png")
    (tmp_path / "images.csv").write_text("prompt,image\na,gone.png\n")
    with pytest.raises(UsageError, match="no such picture"):
        copies_of(tmp_path, ["a"])
    with pytest.raises(UsageError, match="give 0 to 15"):
        near_duplicates(as_array([1]), 16)
