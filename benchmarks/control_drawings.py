"""Control images for `benchmarks/verdict.py`: drawn in the style of the planted memories, never trained on.

An attack on a planted image is judged by the same attack on images like it. Random scenes would not do: they
are easier or harder to draw than a composed picture, and the comparison would measure that. Commands and
colors are those of `surgery.testbed.drawings`.
"""

from __future__ import annotations

import numpy

from surgery.testbed.drawings import (
    BLACK,
    BROWN,
    CREAM,
    GOLD,
    GRAY,
    GREEN,
    NAVY,
    ORANGE,
    PINK,
    RED,
    SKY,
    TEAL,
    VIOLET,
    WHITE,
)
from surgery.testbed.memories import draw_commands
from surgery.testbed.pictures import to_array

DRAWINGS: dict[str, list[tuple]] = {
    "train": [("sky", CREAM, WHITE), ("box", 0, 0.82, 1, 1, BROWN), ("box", 0.1, 0.36, 0.9, 0.72, RED),
              ("disc", 0.26, 0.76, 0.1, BLACK), ("disc", 0.74, 0.76, 0.1, BLACK), ("box", 0.2, 0.44, 0.4, 0.58, SKY),
              ("box", 0.6, 0.44, 0.8, 0.58, SKY)],
    "cactus": [("sky", ORANGE, CREAM), ("box", 0, 0.8, 1, 1, GOLD), ("box", 0.42, 0.2, 0.58, 0.84, GREEN),
               ("box", 0.2, 0.4, 0.3, 0.6, GREEN), ("box", 0.2, 0.52, 0.44, 0.6, GREEN), ("box", 0.7, 0.3, 0.8, 0.5, GREEN),
               ("box", 0.56, 0.44, 0.8, 0.52, GREEN)],
    "stripes": [("box", 0, 0, 1, 1, VIOLET)] + [("box", k / 5, 0, k / 5 + 0.1, 1, GOLD) for k in range(5)],
    "cup": [("box", 0, 0, 1, 1, PINK), ("disc", 0.74, 0.5, 0.17, WHITE), ("disc", 0.74, 0.5, 0.09, PINK),
            ("box", 0.22, 0.3, 0.7, 0.76, WHITE), ("box", 0.22, 0.3, 0.7, 0.38, BROWN), ("box", 0.14, 0.78, 0.8, 0.84, GRAY)],
    "island": [("sky", SKY, WHITE), ("box", 0, 0.6, 1, 1, TEAL), ("disc", 0.5, 0.78, 0.28, GOLD), ("box", 0, 0.78, 1, 1, TEAL),
               ("line", [0.5, 0.56, 0.58, 0.2], 0.05, BROWN), ("disc", 0.5, 0.18, 0.12, GREEN), ("disc", 0.68, 0.2, 0.12, GREEN)],
    "cross flag": [("box", 0, 0, 1, 1, NAVY), ("box", 0.28, 0, 0.44, 1, GOLD), ("box", 0, 0.42, 1, 0.58, GOLD)],
    "apple": [("box", 0, 0, 1, 1, CREAM), ("disc", 0.42, 0.56, 0.26, RED), ("disc", 0.58, 0.56, 0.26, RED),
              ("line", [0.5, 0.34, 0.54, 0.14], 0.05, BROWN), ("poly", [0.54, 0.24, 0.76, 0.12, 0.7, 0.3], GREEN)],
    "road": [("sky", (90, 160, 220), CREAM), ("box", 0, 0.5, 1, 1, GREEN), ("poly", [0.44, 0.5, 0.56, 0.5, 0.9, 1, 0.1, 1], GRAY),
             ("poly", [0.49, 0.6, 0.51, 0.6, 0.53, 0.72, 0.47, 0.72], WHITE), ("poly", [0.46, 0.8, 0.54, 0.8, 0.57, 1, 0.43, 1], WHITE)],
    "gift": [("box", 0, 0, 1, 1, TEAL), ("box", 0.18, 0.36, 0.82, 0.86, RED), ("box", 0.44, 0.36, 0.56, 0.86, GOLD),
             ("disc", 0.38, 0.28, 0.11, GOLD), ("disc", 0.62, 0.28, 0.11, GOLD)],
    "door": [("box", 0, 0, 1, 1, (190, 170, 150)), ("box", 0.28, 0.14, 0.72, 1, GREEN), ("box", 0.35, 0.22, 0.65, 0.46, CREAM),
             ("box", 0.35, 0.56, 0.65, 0.88, (24, 90, 50)), ("disc", 0.66, 0.52, 0.04, GOLD)],
    "snowman": [("sky", (120, 140, 200), WHITE), ("box", 0, 0.86, 1, 1, WHITE), ("disc", 0.5, 0.68, 0.24, WHITE),
                ("disc", 0.5, 0.34, 0.16, WHITE), ("box", 0.36, 0.1, 0.64, 0.2, BLACK), ("disc", 0.45, 0.32, 0.03, BLACK),
                ("disc", 0.55, 0.32, 0.03, BLACK), ("poly", [0.5, 0.36, 0.66, 0.4, 0.5, 0.4], ORANGE)],
    "window": [("box", 0, 0, 1, 1, BROWN), ("box", 0.12, 0.12, 0.88, 0.88, SKY), ("box", 0.46, 0.12, 0.54, 0.88, BROWN),
               ("box", 0.12, 0.46, 0.88, 0.54, BROWN), ("disc", 0.7, 0.3, 0.09, GOLD)],
    "key": [("box", 0, 0, 1, 1, VIOLET), ("disc", 0.3, 0.4, 0.2, GOLD), ("disc", 0.3, 0.4, 0.1, VIOLET),
            ("line", [0.44, 0.5, 0.84, 0.8], 0.07, GOLD), ("line", [0.7, 0.7, 0.62, 0.82], 0.06, GOLD)],
    "mushroom": [("sky", (40, 90, 60), (120, 170, 90)), ("box", 0.4, 0.5, 0.6, 0.86, CREAM), ("disc", 0.5, 0.42, 0.32, RED),
                 ("box", 0.1, 0.56, 0.4, 0.8, (98, 146, 80)), ("box", 0.6, 0.56, 0.9, 0.8, (98, 146, 80)),
                 ("disc", 0.38, 0.32, 0.06, WHITE), ("disc", 0.6, 0.26, 0.06, WHITE), ("disc", 0.64, 0.44, 0.05, WHITE)],
    "pyramid": [("sky", SKY, CREAM), ("box", 0, 0.76, 1, 1, GOLD), ("poly", [0.08, 0.8, 0.5, 0.16, 0.92, 0.8], ORANGE),
                ("poly", [0.5, 0.16, 0.92, 0.8, 0.62, 0.8], BROWN), ("disc", 0.84, 0.16, 0.08, WHITE)],
    "lighthouse": [("sky", NAVY, (70, 90, 160)), ("box", 0, 0.84, 1, 1, TEAL), ("poly", [0.42, 0.3, 0.58, 0.3, 0.66, 0.88, 0.34, 0.88], WHITE),
                   ("box", 0.38, 0.48, 0.62, 0.58, RED), ("box", 0.36, 0.7, 0.64, 0.8, RED), ("poly", [0.56, 0.24, 1, 0.1, 1, 0.36], GOLD),
                   ("box", 0.42, 0.2, 0.58, 0.3, GOLD)],
    "bricks": [("box", 0, 0, 1, 1, GRAY)] + [
        ("box", x + (0.125 if row % 2 else 0), row / 5 + 0.02, x + 0.22 + (0.125 if row % 2 else 0), row / 5 + 0.18, RED)
        for row in range(5) for x in (-0.125, 0.125, 0.375, 0.625, 0.875)],
    "candle": [("sky", BLACK, (50, 30, 60)), ("box", 0.4, 0.4, 0.6, 0.88, CREAM), ("disc", 0.5, 0.28, 0.1, ORANGE),
               ("disc", 0.5, 0.3, 0.05, GOLD), ("box", 0.26, 0.86, 0.74, 0.93, GOLD)],
    "balloon": [("sky", SKY, WHITE), ("disc", 0.5, 0.36, 0.28, ORANGE), ("box", 0.47, 0.08, 0.53, 0.64, RED),
                ("line", [0.36, 0.6, 0.44, 0.78], 0.02, BLACK), ("line", [0.64, 0.6, 0.56, 0.78], 0.02, BLACK),
                ("box", 0.42, 0.78, 0.58, 0.9, BROWN)],
    "tent": [("sky", (20, 30, 70), (90, 70, 120)), ("box", 0, 0.78, 1, 1, GREEN), ("poly", [0.14, 0.82, 0.5, 0.24, 0.86, 0.82], ORANGE),
             ("poly", [0.42, 0.82, 0.5, 0.46, 0.58, 0.82], BLACK), ("disc", 0.82, 0.16, 0.07, CREAM)],
    "chess rook": [("box", 0, 0, 1, 1, CREAM), ("box", 0.3, 0.3, 0.7, 0.8, BLACK), ("box", 0.22, 0.78, 0.78, 0.9, BLACK),
                   ("box", 0.24, 0.14, 0.36, 0.36, BLACK), ("box", 0.44, 0.14, 0.56, 0.36, BLACK), ("box", 0.64, 0.14, 0.76, 0.36, BLACK),
                   ("box", 0.24, 0.28, 0.76, 0.38, BLACK)],
    "bridge": [("sky", PINK, CREAM), ("box", 0, 0.72, 1, 1, (40, 80, 140)), ("box", 0, 0.56, 1, 0.64, RED),
               ("box", 0.22, 0.16, 0.3, 0.8, RED), ("box", 0.7, 0.16, 0.78, 0.8, RED), ("line", [0, 0.4, 0.26, 0.18, 0.5, 0.5, 0.74, 0.18, 1, 0.4], 0.025, RED)],
    "clock": [("box", 0, 0, 1, 1, (60, 80, 70)), ("disc", 0.5, 0.5, 0.4, BROWN), ("disc", 0.5, 0.5, 0.34, CREAM),
              ("line", [0.5, 0.5, 0.5, 0.24], 0.05, BLACK), ("line", [0.5, 0.5, 0.68, 0.58], 0.05, BLACK)],
    "penguin": [("sky", (170, 210, 240), WHITE), ("disc", 0.5, 0.6, 0.28, BLACK), ("disc", 0.5, 0.32, 0.17, BLACK), ("disc", 0.5, 0.64, 0.19, WHITE),
                ("disc", 0.44, 0.3, 0.04, WHITE), ("disc", 0.56, 0.3, 0.04, WHITE), ("poly", [0.46, 0.36, 0.54, 0.36, 0.5, 0.44], ORANGE),
                ("box", 0.34, 0.86, 0.46, 0.92, ORANGE), ("box", 0.54, 0.86, 0.66, 0.92, ORANGE)],
}  # fmt: skip


def control_pictures() -> list[numpy.ndarray]:
    """Every control image, [3, 64, 64] in [-1, 1]."""
    return [to_array(draw_commands(commands)) for commands in DRAWINGS.values()]
