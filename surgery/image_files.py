"""Which picture file belongs to which prompt: folders of training images as `audit` and `scan` read them.

A folder holds either `images.csv`, with the columns `prompt` (or `caption`), `image` and, where a memory is a
template, `mask`; or pictures that say by their name whose they are: the prompt in lower case with everything
but letters and digits turned into single hyphens (`a-red-circle.png`), or the prompt's number in the prompts
file, counted from 1 (`7.png`, `007.png`). `NAME.mask.png` is a mask. No picture is opened here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import UsageError

TABLE = "images.csv"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class TableRow:
    """One line of `images.csv`; the mask is None where there is none."""

    prompt: str
    image: Path
    mask: Path | None


def slug(prompt: str) -> str:
    """The file name of a prompt: `A red circle!` -> `a-red-circle`."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder by name, without masks (`NAME.mask.png`)."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.stem.endswith(".mask")
    )


def table_rows(table: Path) -> Iterator[TableRow]:
    """The lines of `images.csv`, one at a time; a prompt may have several images.

    Raises:
        UsageError: it cannot be read, or a line lacks its caption or image.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for number, named in enumerate(csv.DictReader(file), start=2):
                row = {(name or "").strip().lower(): value for name, value in named.items()}
                prompt, image = row.get("prompt") or row.get("caption"), row.get("image")
                if not prompt or not image:
                    raise UsageError(
                        f"{table} line {number}", "lacks a prompt or an image", "write prompt,image[,mask]"
                    )
                mask = (row.get("mask") or "").strip()
                yield TableRow(
                    prompt.strip(), table.parent / image.strip(), table.parent / mask if mask else None
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(table, f"cannot be read as a table ({error})", "write prompt,image[,mask]") from None


def table_mapping(table: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Caption -> image and caption -> mask, as `images.csv` says; of several images of a caption the last.

    Raises:
        UsageError: as `table_rows`.
    """
    rows = list(table_rows(table))
    return (
        {row.prompt: row.image for row in rows},
        {row.prompt: row.mask for row in rows if row.mask is not None},
    )
