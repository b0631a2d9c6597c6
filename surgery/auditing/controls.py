"""Control images: pictures that no model saw, each with a caption of its own, treated as the prompts are.

A control's caption is, in this order,

1. the one that `images.csv` in the folder gives (columns `prompt` or `caption`, and `image`);
2. the words of its file's name, where it has words (`red-train.png` -> `red train`);
3. an ordinary prompt, one after the other.

Where no controls are given, SOURCE draws them from ordinary prompts, and these are their captions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from surgery.auditing.bench import Bench, Job
from surgery.auditing.measures.replication import generate
from surgery.auditing.store import Pictures
from surgery.auditing.units import ControlPictureUnit
from surgery.errors import SurgeryError, UsageError
from surgery.files import expanded
from surgery.image_files import TABLE, pictures_in, table_mapping
from surgery.measures.pictures import read_picture

GivenControls = str | Path | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Control:
    """A picture that no model saw.

    Attributes:
        image: uint8 [3, height, width].
        caption: as if it had been trained with; "" until an ordinary prompt takes its place.
    """

    image: torch.Tensor
    caption: str = ""


def read_controls(given: GivenControls | None, size: tuple[int, int]) -> list[Control] | None:
    """The given controls; None where SOURCE is to make them.

    Args:
        given: a folder, pictures uint8 [3, height, width], or caption -> picture.
        size: (height, width) that the model draws; pictures of a folder are cut and scaled to it.

    Raises:
        UsageError: there is no such folder, no picture in it, or one that cannot be read or fits badly.
    """
    if given is None:
        return None
    if isinstance(given, str | Path):
        return _folder(expanded(given), size)
    pairs = given.items() if isinstance(given, Mapping) else (("", image) for image in given)
    controls = [Control(image, caption) for caption, image in pairs]
    for control in controls:
        if tuple(control.image.shape) != (3, *size):
            raise UsageError(
                "control images", f"shape {tuple(control.image.shape)}", f"give arrays of shape {(3, *size)}"
            )
    return controls


def captioned(controls: Sequence[Control], prompts: Sequence[str]) -> list[Control]:
    """Every control with a caption: those without get ordinary prompts in turn."""
    spare = list(prompts) or [""]
    return [
        control if control.caption else Control(control.image, spare[index % len(spare)])
        for index, control in enumerate(controls)
    ]


def make_controls(bench: Bench, prompts: Sequence[str], count: int, skipped: int = 0) -> list[Control]:
    """Control images made by SOURCE from ordinary prompts, one each; fewer where the budget ends.

    Args:
        skipped: how many others were made before, by other numbers: no two uses meet.

    Raises:
        SurgeryError: there are no ordinary prompts.
    """
    if not prompts:
        raise SurgeryError("controls", "no ordinary prompts to make them from", "give --control-images")
    drawing = bench.settings.drawing()
    jobs, captions = [], []
    for index in range(skipped, skipped + count):
        prompt = prompts[index % len(prompts)]

        def measure(index: int = index, prompt: str = prompt) -> tuple[ControlPictureUnit, Pictures]:
            seeds = bench.settings.seeds_for("controls", 1, index)
            drawn = generate(bench.source, [prompt], seeds, drawing, bench.budget.work, quiet=True)
            return ControlPictureUnit(), {"control": drawn[0]}

        key = ControlPictureUnit.key(index)
        jobs.append(Job(ControlPictureUnit, key, drawing.forwards(1), measure, "make controls", "make"))
        captions.append(prompt)
    made = bench.measured(jobs)
    return [
        Control(bench.store.pictures(job.key)["control"][0], caption)
        for job, caption in zip(jobs, captions, strict=True)
        if job.key in made
    ]


def _folder(folder: Path, size: tuple[int, int]) -> list[Control]:
    if not folder.is_dir():
        raise UsageError(folder, "no such folder", "give a folder of pictures")
    if (folder / TABLE).is_file():
        images, _ = table_mapping(folder / TABLE)
        return [Control(read_picture(path, *size), caption) for caption, path in images.items()]
    files = pictures_in(folder)
    if not files:
        raise UsageError(folder, "holds no picture", "give a folder of pictures")
    return [Control(read_picture(file, *size), _words(file.stem)) for file in files]


def _words(stem: str) -> str:
    """The words of a file's name; "" for a number, a hash and the like."""
    words = re.split(r"[^A-Za-z]+", stem)
    named = [word.lower() for word in words if len(word) > 2 and not re.search(r"\d", stem)]
    return " ".join(named)
