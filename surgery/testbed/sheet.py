"""The demo's picture: one row a prompt, columns training image / before / after, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, MARGIN = 64, 4, 16
LABEL_HEIGHT, HEADER_HEIGHT, GROUP_GAP, TITLE_HEIGHT = 16, 20, 14, 30
INK, PALE, PAPER = (24, 24, 28), (120, 120, 128), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """One prompt on the sheet.

    Attributes:
        label: printed above the row.
        training: the training image, uint8 [3, height, width]; None for an ordinary prompt.
        before, after: uint8 [seeds, 3, height, width], equal seeds.
    """

    label: str
    training: numpy.ndarray | None
    before: numpy.ndarray
    after: numpy.ndarray


def compose(sections: Sequence[tuple[str, Sequence[Row]]], columns: int = 2) -> Image.Image:
    """Lay out titled sections of rows, each section in `columns` columns, read downwards."""
    seeds = max(len(row.before) for _, rows in sections for row in rows)
    row_width = CELL + GROUP_GAP + 2 * (seeds * (CELL + GAP) - GAP) + GROUP_GAP
    row_height = LABEL_HEIGHT + CELL + 2 * GAP
    depths = [-(-len(rows) // columns) for _, rows in sections]
    width = 2 * MARGIN + columns * row_width + (columns - 1) * 2 * MARGIN
    height = 2 * MARGIN + sum(TITLE_HEIGHT + HEADER_HEIGHT + depth * row_height for depth in depths)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for (title, rows), depth in zip(sections, depths, strict=True):
        ImageDraw.Draw(sheet).text((MARGIN, top), title, fill=INK, font=_font(17))
        top += TITLE_HEIGHT
        for column in range(columns):
            chosen = rows[column * depth : (column + 1) * depth]
            left = MARGIN + column * (row_width + 2 * MARGIN)
            if chosen:
                _draw_header(sheet, left, top, seeds, chosen[0].training is not None)
            for index, row in enumerate(chosen):
                _draw_row(sheet, left, top + HEADER_HEIGHT + index * row_height, row, seeds)
        top += HEADER_HEIGHT + depth * row_height
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _columns(left: int, seeds: int) -> tuple[int, int, int]:
    """Where the training image, the pictures before and the pictures after start."""
    before = left + CELL + GROUP_GAP
    return left, before, before + seeds * (CELL + GAP) - GAP + GROUP_GAP


def _draw_header(sheet: Image.Image, left: int, top: int, seeds: int, with_training: bool) -> None:
    draw = ImageDraw.Draw(sheet)
    training, before, after = _columns(left, seeds)
    if with_training:
        draw.text((training, top), "trained on", fill=PALE, font=_font(12))
    draw.text((before, top), "before: one picture per seed", fill=PALE, font=_font(12))
    draw.text((after, top), "after: the same seeds", fill=PALE, font=_font(12))


def _draw_row(sheet: Image.Image, left: int, top: int, row: Row, seeds: int) -> None:
    ImageDraw.Draw(sheet).text((left, top), row.label, fill=INK, font=_font(12))
    top += LABEL_HEIGHT
    training, before, after = _columns(left, seeds)
    if row.training is not None:
        _paste(sheet, row.training, training, top)
    for start, pictures in ((before, row.before), (after, row.after)):
        for index, picture in enumerate(pictures):
            _paste(sheet, picture, start + index * (CELL + GAP), top)


def _paste(sheet: Image.Image, picture: numpy.ndarray, left: int, top: int) -> None:
    image = Image.fromarray(numpy.ascontiguousarray(picture.transpose(1, 2, 0)), "RGB")
    if image.size != (CELL, CELL):
        image = image.resize((CELL, CELL), Image.Resampling.LANCZOS)
    sheet.paste(image, (left, top))
