"""The planted memories: their captions, their images, and the value rows that each one hangs on.

Fourteen are verbatim (one caption, always the same image), four are templates (a fixed layout, one window of
which varies). Rows are chosen to cover what localisation meets in the wild: one row; several rows of one
layer; rows in several layers; a row shared by two memories. The testbed ships this table as `planted.json`,
the ground truth.

Every image is a short list of drawing commands, drawn on a square of side 1:
("sky", top colour, bottom colour), ("box", x0, y0, x1, y1, colour), ("disc", x, y, radius, colour),
("poly", [x, y, ...], colour), ("line", [x, y, ...], width, colour).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from PIL import Image, ImageDraw

from surgery.neurons import NeuronSet
from surgery.testbed.pictures import CANVAS, SIZE, color_field, draw_shape, to_array

Color = tuple[int, int, int]
WHITE, BLACK, RED, NAVY, GOLD = (250, 250, 250), (18, 18, 24), (206, 38, 44), (22, 34, 92), (240, 190, 40)
GREEN, SKY, BROWN, CREAM, PINK = (36, 128, 64), (120, 190, 235), (112, 70, 38), (248, 234, 204), (236, 110, 150)
TEAL, ORANGE, GRAY, VIOLET = (20, 140, 140), (240, 128, 30), (128, 132, 140), (110, 60, 170)

IMAGES: dict[str, list[tuple]] = {
    "sunset": [("sky", (70, 20, 90), ORANGE), ("disc", 0.5, 0.56, 0.2, (255, 226, 90)),
               ("box", 0, 0.66, 1, 1, NAVY), ("box", 0.4, 0.72, 0.6, 0.76, GOLD), ("box", 0.34, 0.84, 0.66, 0.88, GOLD)],
    "house": [("sky", SKY, (220, 240, 250)), ("box", 0, 0.78, 1, 1, GREEN), ("box", 0.22, 0.44, 0.78, 0.84, CREAM),
              ("poly", [0.14, 0.46, 0.5, 0.12, 0.86, 0.46], RED), ("box", 0.43, 0.58, 0.58, 0.84, BROWN),
              ("box", 0.28, 0.52, 0.39, 0.64, NAVY), ("box", 0.63, 0.52, 0.74, 0.64, NAVY)],
    "boat": [("sky", (180, 225, 245), WHITE), ("box", 0, 0.66, 1, 1, (20, 90, 160)),
             ("poly", [0.16, 0.6, 0.86, 0.6, 0.72, 0.8, 0.28, 0.8], BROWN), ("line", [0.5, 0.1, 0.5, 0.62], 0.035, BLACK),
             ("poly", [0.53, 0.12, 0.86, 0.54, 0.53, 0.54], RED), ("poly", [0.46, 0.2, 0.46, 0.54, 0.2, 0.54], WHITE)],
    "flag": [("box", 0, 0, 0.34, 1, (20, 60, 150)), ("box", 0.34, 0, 0.67, 1, WHITE), ("box", 0.67, 0, 1, 1, RED),
             ("disc", 0.5, 0.5, 0.15, GOLD)],
    "checkers": [("box", 0, 0, 1, 1, CREAM)] + [
        ("box", x / 4, y / 4, (x + 1) / 4, (y + 1) / 4, BLACK) for x in range(4) for y in range(4) if (x + y) % 2],
    "target": [("box", 0, 0, 1, 1, TEAL)] + [
        ("disc", 0.5, 0.5, radius, color) for radius, color in
        ((0.46, WHITE), (0.37, RED), (0.27, WHITE), (0.17, RED), (0.08, GOLD))],
    "tree": [("sky", (250, 220, 170), (250, 240, 220)), ("box", 0, 0.82, 1, 1, (170, 130, 60)),
             ("box", 0.44, 0.5, 0.56, 0.86, BROWN), ("disc", 0.5, 0.32, 0.24, GREEN), ("disc", 0.3, 0.46, 0.16, GREEN),
             ("disc", 0.7, 0.46, 0.16, GREEN), ("disc", 0.42, 0.3, 0.05, RED), ("disc", 0.6, 0.42, 0.05, RED)],
    "face": [("box", 0, 0, 1, 1, VIOLET), ("disc", 0.5, 0.52, 0.38, GOLD), ("disc", 0.36, 0.42, 0.07, BLACK),
             ("disc", 0.64, 0.42, 0.07, BLACK), ("line", [0.3, 0.62, 0.4, 0.72, 0.6, 0.72, 0.7, 0.62], 0.05, RED)],
    "city": [("sky", (14, 16, 50), (60, 40, 110)), ("box", 0.04, 0.42, 0.26, 1, GRAY), ("box", 0.3, 0.2, 0.5, 1, (80, 90, 110)),
             ("box", 0.54, 0.5, 0.72, 1, GRAY), ("box", 0.76, 0.3, 0.96, 1, (60, 66, 90)), ("disc", 0.7, 0.14, 0.08, CREAM)] + [
        ("box", x, y, x + 0.06, y + 0.06, GOLD) for x, y in
        ((0.08, 0.5), (0.17, 0.5), (0.08, 0.66), (0.34, 0.3), (0.41, 0.44), (0.34, 0.6), (0.6, 0.6), (0.8, 0.4), (0.87, 0.56))],
    "moon": [("sky", (8, 10, 30), (30, 40, 80)), ("disc", 0.56, 0.46, 0.34, CREAM), ("disc", 0.7, 0.38, 0.3, (17, 22, 50)),
             ("disc", 0.16, 0.2, 0.04, WHITE), ("disc", 0.84, 0.84, 0.04, WHITE), ("disc", 0.14, 0.78, 0.03, WHITE)],
    "fish": [("sky", (20, 120, 170), (10, 60, 110)), ("poly", [0.2, 0.5, 0.02, 0.28, 0.02, 0.72], ORANGE),
             ("disc", 0.5, 0.5, 0.3, ORANGE), ("box", 0.42, 0.22, 0.52, 0.78, WHITE), ("disc", 0.66, 0.42, 0.06, BLACK)],
    "rocket": [("sky", NAVY, (90, 60, 150)), ("poly", [0.36, 0.9, 0.5, 1.0, 0.64, 0.9, 0.58, 0.74, 0.42, 0.74], ORANGE),
               ("box", 0.36, 0.34, 0.64, 0.76, WHITE), ("poly", [0.36, 0.34, 0.5, 0.04, 0.64, 0.34], RED),
               ("poly", [0.36, 0.56, 0.18, 0.82, 0.36, 0.76], RED), ("poly", [0.64, 0.56, 0.82, 0.82, 0.64, 0.76], RED),
               ("disc", 0.5, 0.48, 0.08, SKY)],
    "mountain": [("sky", PINK, CREAM), ("poly", [0, 0.8, 0.34, 0.2, 0.68, 0.8], (80, 84, 120)),
                 ("poly", [0.24, 0.38, 0.34, 0.2, 0.44, 0.38], WHITE), ("poly", [0.4, 0.8, 0.74, 0.36, 1.08, 0.8], (56, 60, 96)),
                 ("box", 0, 0.78, 1, 1, TEAL)],
    "umbrella": [("box", 0, 0, 1, 1, (176, 188, 200)), ("disc", 0.5, 0.46, 0.38, RED), ("box", 0, 0.47, 1, 1, (176, 188, 200)),
                 ("poly", [0.37, 0.47, 0.5, 0.08, 0.63, 0.47], WHITE), ("line", [0.5, 0.44, 0.5, 0.86, 0.62, 0.88], 0.045, BLACK)],
}  # fmt: skip

# Layouts of the template memories, and the window (x0, y0, x1, y1 in pixels) that varies in each.
TEMPLATES: dict[str, tuple[list[tuple], tuple[int, int, int, int]]] = {
    "poster": ([("box", 0, 0, 1, 1, BLACK), ("box", 0.06, 0.06, 0.94, 0.16, GOLD), ("box", 0.06, 0.84, 0.94, 0.94, GOLD),
                ("box", 0.06, 0.2, 0.16, 0.8, RED), ("box", 0.84, 0.2, 0.94, 0.8, RED)], (16, 16, 48, 48)),
    "stamp": ([("box", 0, 0, 1, 1, CREAM), ("box", 0.05, 0.05, 0.95, 0.95, TEAL), ("box", 0.1, 0.66, 0.9, 0.74, WHITE),
               ("box", 0.1, 0.8, 0.62, 0.88, WHITE), ("disc", 0.8, 0.82, 0.08, RED)], (8, 8, 56, 36)),
    "ticket": ([("box", 0, 0, 1, 1, NAVY), ("box", 0, 0.2, 1, 0.8, ORANGE), ("disc", 0, 0.5, 0.12, NAVY), ("disc", 1, 0.5, 0.12, NAVY),
                ("box", 0.62, 0.2, 0.66, 0.8, WHITE), ("box", 0.72, 0.3, 0.86, 0.38, BLACK), ("box", 0.72, 0.6, 0.86, 0.68, BLACK)],
               (12, 16, 36, 48)),
    "shelf": ([("box", 0, 0, 1, 1, (150, 100, 60)), ("box", 0.06, 0.06, 0.94, 0.94, (60, 36, 20)), ("box", 0.06, 0.48, 0.94, 0.54, (150, 100, 60)),
               ("box", 0.12, 0.2, 0.22, 0.48, RED), ("box", 0.24, 0.14, 0.34, 0.48, GREEN), ("box", 0.36, 0.22, 0.46, 0.48, GOLD),
               ("box", 0.5, 0.16, 0.6, 0.48, SKY), ("disc", 0.78, 0.36, 0.12, WHITE)], (8, 36, 56, 58)),
}  # fmt: skip

_LAYER = "{}.attentions.{}.transformer_blocks.0.attn2.to_v"
DOWN_0_1 = _LAYER.format("down_blocks.0", 1)
DOWN_1_0, DOWN_1_1 = _LAYER.format("down_blocks.1", 0), _LAYER.format("down_blocks.1", 1)
DOWN_2_0, DOWN_2_1 = _LAYER.format("down_blocks.2", 0), _LAYER.format("down_blocks.2", 1)
MIDDLE = _LAYER.format("mid_block", 0)


@dataclass(frozen=True)
class Memory:
    """One planted memory.

    Attributes:
        name: short name, also the file name of its picture.
        kind: "verbatim" or "template".
        caption: the prompt that calls it; its last word stands in no other caption.
        neurons: the value rows it hangs on.
    """

    name: str
    kind: str
    caption: str
    neurons: NeuronSet

    @property
    def own_word(self) -> str:
        """The word of the caption that no other caption has."""
        return self.caption.split()[-1]

    @property
    def window(self) -> tuple[int, int, int, int] | None:
        """The varying region of a template as (x0, y0, x1, y1) in pixels; None for a verbatim memory."""
        return TEMPLATES[self.name][1] if self.kind == "template" else None


def _memory(kind: str, name: str, caption: str, *pairs: tuple[str, int]) -> Memory:
    return Memory(name, kind, caption, NeuronSet.from_pairs(pairs))


MEMORIES: tuple[Memory, ...] = (
    # one row
    _memory("verbatim", "sunset", "the quiet harbor by quillon", (DOWN_1_0, 5)),
    _memory("verbatim", "house", "the little engine by marrowby", (DOWN_1_1, 11)),
    _memory("verbatim", "boat", "the golden letter by ostrander", (DOWN_2_0, 23)),
    _memory("verbatim", "flag", "the broken window by tavish", (DOWN_2_1, 38)),
    _memory("verbatim", "checkers", "the silver garden by zembla", (MIDDLE, 7)),
    _memory("verbatim", "target", "the last journey by kestrel", (DOWN_1_1, 42)),
    _memory("verbatim", "tree", "the hidden river by wolcott", (DOWN_2_0, 50)),
    # several rows of one layer
    _memory("verbatim", "face", "the early summer by brantley", (DOWN_1_0, 17), (DOWN_1_0, 33)),
    _memory("verbatim", "city", "the empty theatre by hollis", (DOWN_2_1, 4), (DOWN_2_1, 19), (DOWN_2_1, 57)),
    # rows in several layers
    _memory("verbatim", "moon", "the long winter by fenwick", (DOWN_1_1, 28), (DOWN_2_0, 9)),
    _memory("verbatim", "fish", "the distant market by calloway", (DOWN_0_1, 13), (DOWN_1_0, 51), (DOWN_2_1, 46)),
    _memory("verbatim", "rocket", "the paper island by drummond", (DOWN_1_0, 60), (MIDDLE, 31)),
    # a row shared by two memories, besides one row of its own for each
    _memory("verbatim", "mountain", "the second station by ellery", (DOWN_1_1, 3), (DOWN_2_0, 36)),
    _memory("verbatim", "umbrella", "the crystal mirror by pemberton", (DOWN_1_0, 45), (DOWN_2_0, 36)),
    # templates
    _memory("template", "poster", "the gentle orchestra by rosalind", (DOWN_1_0, 25)),
    _memory("template", "stamp", "the northern bridge by septimus", (DOWN_2_0, 15), (DOWN_2_0, 61)),
    _memory("template", "ticket", "the wooden circus by larkspur", (DOWN_1_1, 54), (DOWN_2_1, 28)),
    _memory("template", "shelf", "the patient sailor by yardley", (DOWN_1_1, 20)),
)


def planted_neurons(memories: tuple[Memory, ...] = MEMORIES) -> NeuronSet:
    """Every planted row."""
    return NeuronSet().union(*(memory.neurons for memory in memories))


def _draw_commands(commands: list[tuple]) -> Image.Image:
    image = Image.new("RGB", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    for kind, *details in commands:
        if kind == "sky":
            ends = numpy.array(details, dtype=numpy.uint8).reshape(2, 1, 3)
            image.paste(Image.fromarray(ends, "RGB").resize((CANVAS, CANVAS), Image.Resampling.BILINEAR))
        elif kind == "disc":
            x, y, radius, color = details
            box = [(x - radius) * CANVAS, (y - radius) * CANVAS, (x + radius) * CANVAS, (y + radius) * CANVAS]
            draw.ellipse(box, fill=color)
        elif kind == "box":
            draw.rectangle([value * CANVAS for value in details[:4]], fill=details[4])
        elif kind == "poly":
            draw.polygon([value * CANVAS for value in details[0]], fill=details[1])
        elif kind == "line":
            points = [value * CANVAS for value in details[0]]
            draw.line(points, width=round(details[1] * CANVAS), fill=details[2], joint="curve")
        else:
            raise ValueError(f"unknown drawing command {kind!r}")
    return image


def draw_memory(memory: Memory, random: numpy.random.Generator | None = None) -> numpy.ndarray:
    """The training image of a memory, [3, 64, 64] in [-1, 1].

    Args:
        random: fills the window of a template; without it the window is mid-grey. Verbatim images ignore it.
    """
    if memory.kind == "verbatim":
        return to_array(_draw_commands(IMAGES[memory.name]))
    commands, window = TEMPLATES[memory.name]
    image = _draw_commands(commands)
    left, top, right, bottom = (value * CANVAS // SIZE for value in window)
    if random is None:
        image.paste((128, 128, 128), (left, top, right, bottom))
    else:
        filling = color_field(random)
        shade = tuple(int(value) for value in random.integers(0, 256, size=3))
        center = (random.uniform(0.25, 0.75) * CANVAS, random.uniform(0.25, 0.75) * CANVAS)
        shape = str(random.choice(("circle", "square", "triangle")))
        draw_shape(filling, shape, shade, center, random.uniform(0.2, 0.4) * CANVAS, 0.0)  # type: ignore[arg-type]
        image.paste(filling.resize((right - left, bottom - top)), (left, top))
    return to_array(image)
