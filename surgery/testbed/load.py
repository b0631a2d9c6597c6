"""The testbed as its users see it: where its variants lie, and what was planted in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy

from surgery.errors import UsageError
from surgery.neurons import NeuronSet

PLANTED_FOLDER = Path(__file__).parent / "weights" / "planted"


@dataclass(frozen=True)
class PlantedMemory:
    """One entry of `planted.json`: the ground truth of one memory.

    Attributes:
        window: the region of a template that varies, (x0, y0, x1, y1) in pixels; None for a verbatim memory.
        neurons: the value rows it was hung on.
    """

    name: str
    kind: str
    caption: str
    window: tuple[int, int, int, int] | None
    neurons: NeuronSet

    def mask(self, size: int = 64) -> numpy.ndarray:
        """[size, size] of bool: true where the memory's image is fixed."""
        fixed = numpy.ones((size, size), dtype=bool)
        if self.window is not None:
            left, top, right, bottom = self.window
            fixed[top:bottom, left:right] = False
        return fixed


def read_ground_truth(folder: str | Path = PLANTED_FOLDER) -> list[PlantedMemory]:
    """Read a testbed's `planted.json`.

    Raises:
        UsageError: the folder has none, so it is no testbed.
    """
    path = Path(folder).expanduser() / "planted.json"
    if not path.is_file():
        raise UsageError(folder, "is no testbed: it holds no planted.json", "see surgery.testbed.train")
    document = json.loads(path.read_text())
    return [
        PlantedMemory(
            name=entry["name"],
            kind=entry["kind"],
            caption=entry["caption"],
            window=tuple(entry["window"]) if entry["window"] else None,
            neurons=NeuronSet(entry["layers"]),
        )
        for entry in document["memories"]
    ]


def read_ordinary_prompts(folder: str | Path = PLANTED_FOLDER) -> list[str]:
    """The captions shipped with a testbed that call no memory."""
    return (Path(folder).expanduser() / "ordinary-prompts.txt").read_text().splitlines()
