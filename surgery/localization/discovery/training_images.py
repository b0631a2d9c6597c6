"""Training images as the place to start from: captions whose image stands in the training data many times.

Memories come from duplication (Somepalli et al., CVPR 2023; Carlini et al., USENIX Security 2023). So each
picture of a folder is hashed (`hashes`), its near-duplicates are counted (`near_duplicates`), and a caption
has the largest count among its pictures. Pictures are read one at a time: what is kept of each is its hash
and the caption's number.

Which picture belongs to which caption is said by `images.csv`, or by file names, as in
`surgery.image_files`; or by a text file of the same name beside the picture (`0001.png`, `0001.txt`), as
training sets have them. A picture whose caption the corpus does not hold still counts as a copy of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.image_files import TABLE, pictures_in, slug, table_rows
from surgery.localization.discovery.hashes import as_array, file_hash
from surgery.localization.discovery.near_duplicates import near_duplicates

RADIUS = 10  # bits; see the figures in docs/benchmarks.md
NOBODY = -1


@dataclass(frozen=True)
class Copies:
    """How often the images of a corpus' captions occur.

    Attributes:
        of_caption: caption -> near-duplicates of its image; captions without any are left out.
        pictures: files read.
        featureless: of these, pictures of nearly one color, which have no hash.
        without_caption: pictures whose caption the corpus does not hold.
        duplicated: pictures with at least one near-duplicate.
    """

    of_caption: dict[str, int]
    pictures: int
    featureless: int
    without_caption: int
    duplicated: int

    def counts(self) -> dict[str, int]:
        """The numbers, for the record."""
        return {
            "pictures": self.pictures,
            "featureless": self.featureless,
            "without_caption": self.without_caption,
            "duplicated": self.duplicated,
            "captions": len(self.of_caption),
        }


def copies_of(
    folder: str | Path,
    prompts: Sequence[str],
    radius: int = RADIUS,
    progress: Callable[[int], None] = lambda done: None,
) -> Copies:
    """Count the near-duplicates of every caption's images.

    Args:
        folder: of training images.
        prompts: the corpus.
        radius: two pictures are near-duplicates when their hashes differ in at most so many bits.
        progress: called with the number of pictures read.

    Raises:
        UsageError: no such folder, no picture in it, or one that cannot be read; a bad radius.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise UsageError(folder, "no such folder", "give the folder of the training images")
    owners: list[int] = []
    hashes: list[int] = []
    read = featureless = without_caption = 0
    for owner, path in _owned(folder, prompts):
        read += 1
        without_caption += owner == NOBODY
        found = file_hash(path)
        if found is None:
            featureless += 1
        else:
            owners.append(owner)
            hashes.append(found)
        progress(read)
    if not read:
        raise UsageError(folder, "holds no picture", "give the folder of the training images")
    copies = near_duplicates(as_array(hashes), radius).copies
    most = numpy.zeros(len(prompts), dtype=numpy.int64)
    owned = numpy.array(owners, dtype=numpy.int64)
    kept = owned != NOBODY
    numpy.maximum.at(most, owned[kept], copies[kept])
    return Copies(
        {prompts[place]: int(most[place]) for place in numpy.flatnonzero(most).tolist()},
        read,
        featureless,
        without_caption,
        int((copies > 0).sum()),
    )


def _owned(folder: Path, prompts: Sequence[str]) -> Iterator[tuple[int, Path]]:
    """(position of its caption or `NOBODY`, picture) for every picture."""
    positions = {prompt: place for place, prompt in enumerate(prompts)}
    table = folder / TABLE
    if table.is_file():
        for row in table_rows(table):
            yield positions.get(row.prompt, NOBODY), row.image
        return
    names = {slug(prompt): place for place, prompt in enumerate(prompts)}
    for file in pictures_in(folder):
        yield _owner(file, positions, names), file


def _owner(file: Path, positions: dict[str, int], names: dict[str, int]) -> int:
    beside = file.with_suffix(".txt")
    if beside.is_file():
        caption = beside.read_text(encoding="utf-8-sig", errors="replace").strip()
        return positions.get(caption, NOBODY)
    if (place := names.get(slug(file.stem))) is not None:
        return place
    if file.stem.isdecimal() and 1 <= int(file.stem) <= len(positions):
        return int(file.stem) - 1
    return NOBODY
