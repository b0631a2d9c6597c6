"""Which measure tells copies from strangers, at which size? `python benchmarks/similarity.py [--json]`.

Pictures of three kinds, made in code: drawings (the testbed's, rendered at any size), scenes of random
shapes on random fields, and textures with the spectrum of photographs. Of each a copy is made in several
ways; strangers are all other pictures of the same kind. Printed for each measure, size and way: the AUROC of
copies against strangers, and the share of copies, and of strangers, at or above the measure's threshold.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence

import numpy
import torch
from PIL import Image

from surgery.measures.similarity import SIMILARITIES, Similarity

SIZES = (64, 256, 512)
KINDS = 24  # pictures of each kind
STRANGERS = 12  # compared with each picture
PAIRS_AT_ONCE = 36  # at 512 pixels all of them would fill the memory


def drawings(size: int) -> list[numpy.ndarray]:
    """Composed drawings: uint8 [size, size, 3] each."""
    sys.path.insert(0, __file__.rpartition("/")[0])
    from control_drawings import DRAWINGS

    from surgery.testbed.memories import draw_commands

    found = []
    for commands in list(DRAWINGS.values())[:KINDS]:
        image = draw_commands(commands).resize((size, size), Image.Resampling.LANCZOS)
        found.append(numpy.asarray(image.convert("RGB")))
    return found


def scenes(size: int, random: numpy.random.Generator) -> list[numpy.ndarray]:
    """Ten random discs and boxes on a smooth field."""
    y, x = numpy.mgrid[0:size, 0:size] / size
    found = []
    for _ in range(KINDS):
        angle = random.uniform(0, 6.3)
        ramp = (numpy.cos(angle) * x + numpy.sin(angle) * y)[..., None]
        picture = random.uniform(40, 215, 3) + ramp * random.uniform(-60, 60, 3)
        for _ in range(10):
            center, radius = random.uniform(0, 1, 2), random.uniform(0.05, 0.25)
            distance = numpy.hypot(x - center[0], y - center[1])
            if random.random() < 0.5:
                distance = numpy.maximum(abs(x - center[0]), abs(y - center[1]))
            picture[distance < radius] = random.uniform(0, 255, 3)
        found.append(picture.clip(0, 255).astype(numpy.uint8))
    return found


def textures(size: int, random: numpy.random.Generator) -> list[numpy.ndarray]:
    """Noise whose amplitude falls as one over the frequency, as in photographs."""
    frequency = numpy.hypot(numpy.fft.fftfreq(size)[:, None], numpy.fft.fftfreq(size)[None]) * size
    found = []
    for _ in range(KINDS):
        channels = []
        shared = random.normal(size=(size, size))
        for _ in range(3):
            noise = 0.8 * shared + 0.6 * random.normal(size=(size, size))
            field = numpy.fft.ifft2(numpy.fft.fft2(noise) / frequency.clip(1) ** 1.2).real
            channels.append(127 + 50 * field / field.std())
        found.append(numpy.stack(channels, -1).clip(0, 255).astype(numpy.uint8))
    return found


def shifted(pixels: float) -> Callable[[Image.Image], Image.Image]:
    """Shifted by so many pixels of 512, the border repeated."""

    def change(picture: Image.Image) -> Image.Image:
        by = max(1, round(pixels * picture.width / 512))
        array = numpy.pad(numpy.asarray(picture), ((by, 0), (by, 0), (0, 0)), mode="edge")
        return Image.fromarray(array[: picture.height, : picture.width])

    return change


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """A share of the width and height cut off, the rest enlarged."""

    def change(picture: Image.Image) -> Image.Image:
        cut = share * picture.width
        box = (0.3 * cut, 0.6 * cut, picture.width - 0.7 * cut, picture.height - 0.4 * cut)
        return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)

    return change


def recolored(picture: Image.Image) -> Image.Image:
    """Hue turned a little, contrast and brightness changed."""
    array = numpy.asarray(picture).astype(float)
    turned = array @ numpy.array([[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.2, 0.0, 0.8]])
    return Image.fromarray((0.75 * turned + 45).clip(0, 255).astype(numpy.uint8))


def compressed(picture: Image.Image) -> Image.Image:
    """JPEG of quality 30."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def noisy(picture: Image.Image) -> Image.Image:
    """Gaussian noise of 15 levels."""
    array = numpy.asarray(picture).astype(float)
    return Image.fromarray(
        (array + numpy.random.default_rng(5).normal(0, 15, array.shape)).clip(0, 255).astype(numpy.uint8)
    )


def mirrored(picture: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "exact": lambda picture: picture,
    "shifted 2": shifted(2),
    "shifted 8": shifted(8),
    "shifted 24": shifted(24),
    "cropped 5 %": cropped(0.05),
    "cropped 10 %": cropped(0.1),
    "cropped 20 %": cropped(0.2),
    "mirrored": mirrored,
    "recolored": recolored,
    "gray": lambda picture: picture.convert("L").convert("RGB"),
    "JPEG": compressed,
    "noisy": noisy,
    "all of it": lambda picture: compressed(recolored(mirrored(cropped(0.1)(shifted(8)(picture))))),
}


def as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """uint8 [count, 3, size, size]."""
    return torch.stack([torch.from_numpy(numpy.array(one)).permute(2, 0, 1) for one in pictures])


def auroc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Probability that a copy scores above a stranger, ties counting half."""
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()


def compared(similarity: Similarity, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[pairs], of uint8 pictures [pairs, 3, size, size]."""
    parts = zip(first.split(PAIRS_AT_ONCE), second.split(PAIRS_AT_ONCE), strict=True)
    return torch.cat([similarity(one / 127.5 - 1, other / 127.5 - 1) for one, other in parts])


def measure_size(size: int, measures: Sequence[str]) -> list[dict[str, object]]:
    """The rows of one size."""
    random = numpy.random.default_rng(size)
    kinds = [drawings(size), scenes(size, random), textures(size, random)]
    originals = [Image.fromarray(one) for kind in kinds for one in kind]
    tensor = as_tensor(originals)
    pairs = [
        (start + place, start + (place + step) % KINDS)
        for start in range(0, len(originals), KINDS)
        for place in range(KINDS)
        for step in range(1, STRANGERS + 1)
    ]
    one, other = (torch.tensor(places) for places in zip(*pairs, strict=True))
    rows: list[dict[str, object]] = []
    for name in measures:
        similarity = SIMILARITIES[name]
        started = time.perf_counter()
        strangers = compared(similarity, tensor[one], tensor[other])
        seconds = time.perf_counter() - started
        for way, change in WAYS.items():
            copies = compared(similarity, as_tensor([change(picture) for picture in originals]), tensor)
            rows.append(
                {
                    "size": size,
                    "measure": name,
                    "way": way,
                    "auroc": auroc(copies, strangers),
                    "copies_found": (copies >= similarity.threshold).float().mean().item(),
                    "strangers_found": (strangers >= similarity.threshold).float().mean().item(),
                    "copies_5_percent": copies.quantile(0.05).item(),
                    "strangers_99.5_percent": strangers.quantile(0.995).item(),
                    "milliseconds_per_pair": 1000 * seconds / len(pairs),
                }
            )
    return rows


def main() -> int:
    """The command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--measures", nargs="+", default=list(SIMILARITIES), choices=list(SIMILARITIES))
    parser.add_argument("--json", action="store_true")
    parsed = parser.parse_args()
    rows = [row for size in parsed.sizes.split(",") for row in measure_size(int(size), parsed.measures)]
    if parsed.json:
        print(json.dumps(rows))
        return 0
    for size in dict.fromkeys(row["size"] for row in rows):
        for measure in dict.fromkeys(row["measure"] for row in rows):
            own = [row for row in rows if row["size"] == size and row["measure"] == measure]
            print(
                f"\n{measure} at {size}: strangers from the threshold up {own[0]['strangers_found']:.1%}, "
                f"99.5 % of them below {own[0]['strangers_99.5_percent']:.2f}; "
                f"{own[0]['milliseconds_per_pair']:.1f} ms a pair"
            )
            print(f"  {'copies':<14} {'AUROC':>7} {'found':>7} {'95 % above':>11}")
            for row in own:
                print(
                    f"  {row['way']:<14} {row['auroc']:>7.4f} {row['copies_found']:>7.0%} "
                    f"{row['copies_5_percent']:>11.2f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
