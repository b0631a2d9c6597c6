"""The testbed as its users see it: where its variants lie, and what was planted in them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.neurons import NeuronSet

PLANTED_FOLDER = Path(__file__).parent / "weights" / "planted"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


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
    path = expanded(folder) / "planted.json"
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
    return (expanded(folder) / "ordinary-prompts.txt").read_text().splitlines()


def assemble_variant(unet_weights: str | Path, output: str | Path) -> Path:
    """Lay out another variant (twin, natural) as a pipeline folder of its own, and return it.

    The variants share everything with the embedded planted one but the weights of the UNet, so only those are
    kept (outside the wheel).

    Args:
        unet_weights: the variant's `diffusion_pytorch_model.safetensors`.
        output: a folder that does not exist yet.

    Raises:
        UsageError: the weights are missing, or the output exists.
    """
    unet_weights, output = expanded(unet_weights), expanded(output)
    if not unet_weights.is_file():
        raise UsageError(unet_weights, "no such weights", "train them with python -m surgery.testbed.train")
    if output.exists():
        raise UsageError(output, "exists already", "choose a new folder")
    shutil.copytree(PLANTED_FOLDER, output, ignore=shutil.ignore_patterns("README.md", WEIGHTS_NAME))
    shutil.copyfile(unet_weights, output / "unet" / WEIGHTS_NAME)
    # The autoencoder's file has the same name and is shared.
    shutil.copyfile(PLANTED_FOLDER / "vae" / WEIGHTS_NAME, output / "vae" / WEIGHTS_NAME)
    return output
