"""`discovery.py hashes`: near-duplicates among changed copies, false pairs among strangers, and speed."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import numpy
from discovery_corpora import SEED
from PIL import Image

from surgery.localization.discovery.hashes import as_array, distances, picture_hash
from surgery.localization.discovery.near_duplicates import near_duplicates
from surgery.testbed.pictures import COLORS, SHAPES, draw_ordinary, draw_scene


def hashed_pictures(kind: str, count: int) -> list[Image.Image]:
    """Pictures 64 x 64 that have nothing to do with each other."""
    random = numpy.random.default_rng((SEED, len(kind)))
    arrays = (
        draw_scene(random)
        if kind == "scenes"
        else draw_ordinary(random, str(random.choice(list(COLORS))), str(random.choice(SHAPES)))
        for _ in range(count)
    )
    return [Image.fromarray(((one.transpose(1, 2, 0) + 1) * 127.5).round().astype("uint8")) for one in arrays]


def recompressed(picture: Image.Image, quality: int = 30) -> Image.Image:
    """Through a JPEG and back."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def cut(picture: Image.Image, left: float, right: float) -> Image.Image:
    """Without these shares of its width and height at the left and top, and at the right and bottom."""
    box = (round(64 * left), round(64 * left), round(64 * (1 - right)), round(64 * (1 - right)))
    return picture.crop(box).resize((64, 64), Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed (JPEG 30)": recompressed,
    "half the size": lambda one: one.resize((32, 32), Image.Resampling.BICUBIC),
    "brighter by 20 %": lambda one: one.point(lambda value: min(255, int(value * 1.2))),
    "shifted by 1/64": lambda one: cut(one, 1 / 64, 0),
    "shifted by 2/64": lambda one: cut(one, 2 / 64, 0),
    "shifted by 3/64": lambda one: cut(one, 3 / 64, 0),
    "cropped by 3 % a side": lambda one: cut(one, 0.03, 0.03),
    "cropped by 5 % a side": lambda one: cut(one, 0.05, 0.05),
    "cropped by 8 % a side": lambda one: cut(one, 0.08, 0.08),
    "shifted, cropped, JPEG 50": lambda one: recompressed(cut(cut(one, 1 / 64, 0), 0.03, 0.03), 50),
}


def run_hashes(arguments: argparse.Namespace) -> None:
    """Both kinds of pictures, then random hashes."""
    radii = (6, 8, 10, 12)
    for kind in ("scenes", "shapes on smooth fields"):
        pictures = hashed_pictures(kind, arguments.pictures)
        found = [picture_hash(one) for one in pictures]
        hashed = [place for place, one in enumerate(found) if one is not None]
        hashes = as_array(one for one in found if one is not None)
        apart = distances(hashes[:, None], hashes[None])[numpy.triu_indices(len(hashes), 1)]
        print(f"{kind}: {len(pictures)} pictures, {len(pictures) - len(hashed)} without features")
        false = "  ".join(f"{radius}: {int((apart <= radius).sum())}" for radius in radii)
        print(f"  false pairs among {len(apart)}, by radius:  {false}  (mean distance {apart.mean():.1f})")
        for name, change in CHANGES.items():
            near = []
            for place, own in zip(hashed, hashes, strict=True):
                copy = picture_hash(change(pictures[place]))
                near.append(64 if copy is None else int(distances(as_array([copy]), own[None])[0]))
            shares = "  ".join(f"{radius}: {numpy.mean(numpy.array(near) <= radius):.3f}" for radius in radii)
            print(f"  {name:26} found, by radius:  {shares}")
    random = numpy.random.default_rng(SEED)
    many = random.integers(0, 2**64, size=arguments.hashes, dtype=numpy.uint64)
    copies = many[: arguments.hashes // 100].copy()
    for _ in range(8):
        copies ^= numpy.uint64(1) << random.integers(0, 64, size=len(copies), dtype=numpy.uint64)
    many[-len(copies) :] = copies
    for radius in (7, 10):
        started = time.perf_counter()
        result = near_duplicates(many, radius)
        print(
            f"{len(many)} random hashes, every hundredth with a copy 8 flips away, radius {radius}: "
            f"{len(result.pairs)} pairs in {time.perf_counter() - started:.1f} s"
        )
