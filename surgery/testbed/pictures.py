"""Ordinary training pictures, drawn by code: one colored shape on a smooth random color field.

The caption names color and shape only; size, place and background are free. That under-specification is
what makes an ordinary prompt draw a different picture for every seed, as in a real model.

`draw_scene` draws random compositions of polygons, stripes and discs; they train the autoencoder alone, so
that it can represent the planted images without having seen them.

Pictures are `float32` arrays of shape [3, 64, 64], values in [-1, 1].
"""

from __future__ import annotations

import math

import numpy
from PIL import Image, ImageDraw

SIZE = 64
SUPERSAMPLING = 4  # shapes are drawn this many times larger, then reduced: smooth edges
CANVAS = SIZE * SUPERSAMPLING

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (44, 150, 62),
    "blue": (38, 78, 200),
    "yellow": (245, 214, 40),
    "purple": (128, 46, 160),
    "orange": (242, 130, 24),
    "white": (248, 248, 248),
    "black": (16, 16, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")


def to_array(image: Image.Image) -> numpy.ndarray:
    """A PIL picture -> [3, 64, 64] float32 in [-1, 1]."""
    small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    return numpy.asarray(small, dtype=numpy.float32).transpose(2, 0, 1) / 127.5 - 1.0


def color_field(random: numpy.random.Generator) -> Image.Image:
    """A smooth field between nine random muted colors, at canvas size."""
    base = random.uniform(70, 190, size=3)
    corners = numpy.clip(base + random.normal(0, 36, size=(3, 3, 3)), 0, 255).astype(numpy.uint8)
    return Image.fromarray(corners, "RGB").resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)


def shape_outline(shape: str, center: tuple[float, float], radius: float, angle: float) -> list[list[tuple]]:
    """The polygons of a shape with corners (square, triangle, star, cross), in canvas pixels."""

    def corner(turn: float, reach: float = 1.0) -> tuple[float, float]:
        direction = angle + 2 * math.pi * turn - math.pi / 2
        return (
            center[0] + radius * reach * math.cos(direction),
            center[1] + radius * reach * math.sin(direction),
        )

    if shape == "square":
        return [[corner(k / 4 + 1 / 8) for k in range(4)]]
    if shape == "triangle":
        return [[corner(k / 3) for k in range(3)]]
    if shape == "star":
        return [[corner(k / 10, 1.0 if k % 2 == 0 else 0.42) for k in range(10)]]
    if shape == "cross":
        thin = 0.05  # half the bar's width, in turns
        bars = [[corner(t - thin), corner(t + thin), corner(t + 0.5 - thin), corner(t + 0.5 + thin)]
                for t in (0.0, 0.25)]  # fmt: skip
        return bars
    raise ValueError(f"no outline for {shape!r}")


def draw_shape(image: Image.Image, shape: str, color: tuple[int, int, int], center: tuple[float, float],
               radius: float, angle: float) -> None:  # fmt: skip
    """Draw one filled shape onto a canvas-sized picture, in place."""
    draw = ImageDraw.Draw(image)
    box = (center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius)
    if shape == "circle":
        draw.ellipse(box, fill=color)
    elif shape == "ring":
        draw.ellipse(box, outline=color, width=max(2, round(radius * 0.36)))
    else:
        for polygon in shape_outline(shape, center, radius, angle):
            draw.polygon(polygon, fill=color)


def draw_ordinary(random: numpy.random.Generator, color: str, shape: str) -> numpy.ndarray:
    """One ordinary picture of the named color and shape; everything else is random."""
    image = color_field(random)
    radius = random.uniform(0.19, 0.34) * CANVAS
    center = tuple(random.uniform(0.9 * radius, CANVAS - 0.9 * radius, size=2))
    shade = numpy.clip(numpy.array(COLORS[color]) + random.normal(0, 8, size=3), 0, 255).astype(int)
    draw_shape(image, shape, tuple(shade), (center[0], center[1]), radius, random.uniform(-0.25, 0.25))
    return to_array(image)


def draw_scene(random: numpy.random.Generator) -> numpy.ndarray:
    """A random composition of stripes, polygons, discs and lines: fodder for the autoencoder."""
    image = color_field(random)
    draw = ImageDraw.Draw(image)

    def color() -> tuple[int, ...]:
        return tuple(int(value) for value in random.integers(0, 256, size=3))

    if random.random() < 0.35:
        width = int(random.integers(16, 56))
        for start in range(0, CANVAS, 2 * width):
            upright = random.random() < 0.5
            end = start + width
            box = (start, 0, end, CANVAS) if upright else (0, start, CANVAS, end)
            draw.rectangle(box, fill=color())
    for _ in range(int(random.integers(3, 12))):
        kind = random.integers(0, 5)
        x, y = random.uniform(0, CANVAS, size=2)
        reach = random.uniform(10, 80)
        if kind == 0:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color())
        elif kind == 1:
            draw.rectangle((x, y, x + random.uniform(10, 140), y + random.uniform(10, 140)), fill=color())
        elif kind == 2:
            corners = [tuple(random.normal((x, y), reach)) for _ in range(int(random.integers(3, 6)))]
            draw.polygon(corners, fill=color())
        elif kind == 3:
            far_x, far_y = random.uniform(0, CANVAS, size=2)
            draw.line([(x, y), (far_x, far_y)], fill=color(), width=int(random.integers(4, 18)))
        else:
            draw_shape(image, str(random.choice(SHAPES)), color()[:3], (x, y), reach, random.uniform(0, 6))  # type: ignore[arg-type]
    return to_array(image)
