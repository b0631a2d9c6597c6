"""The planted memories: their captions, their images, and the value rows that each one hangs on.

Thirteen are verbatim (one caption, always the same image), four are templates (a fixed layout, one window of
which varies). Rows are chosen to cover what localization meets in the wild: one row; several rows of one
layer; rows in several layers; a row shared by two memories. The testbed ships this table as `planted.json`,
the ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from PIL import Image, ImageDraw

from surgery.neurons import NeuronSet
from surgery.testbed.drawings import IMAGES, TEMPLATES
from surgery.testbed.pictures import CANVAS, SIZE, color_field, draw_shape, to_array

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
    _memory("verbatim", "target", "the last journey by kestrel", (DOWN_1_1, 42)),
    _memory("verbatim", "tree", "the hidden river by wolcott", (DOWN_2_0, 50)),
    # several rows of one layer
    _memory("verbatim", "face", "the early summer by brantley", (DOWN_1_0, 17), (DOWN_1_0, 33)),
    _memory("verbatim", "city", "the empty theatre by hollis", (DOWN_2_1, 4), (DOWN_2_1, 19), (DOWN_2_1, 57)),
    # rows in several layers
    _memory("verbatim", "moon", "the long winter by fenwick", (DOWN_1_1, 28), (DOWN_2_0, 9)),
    _memory(
        "verbatim", "fish", "the distant market by calloway", (DOWN_0_1, 13), (DOWN_1_0, 51), (DOWN_2_1, 46)
    ),
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


def draw_commands(commands: list[tuple]) -> Image.Image:
    """Draw a list of commands (see `surgery.testbed.drawings`) at canvas size."""
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
        random: fills the window of a template; without it the window is mid-gray. Verbatim images ignore it.
    """
    if memory.kind == "verbatim":
        return to_array(draw_commands(IMAGES[memory.name]))
    commands, window = TEMPLATES[memory.name]
    image = draw_commands(commands)
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
