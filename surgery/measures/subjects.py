"""What is audited: prompts with their training images and masks.

A prompt finds its training image in the images folder by

1. `images.csv` in it: columns `prompt` (or `caption`), `image` and, for template memories, `mask`; or else
2. the file's name: the prompt in lower case with everything but letters and digits turned into single hyphens
   (`a-red-circle.png`), or the prompt's number in the prompts file, counted from 1 (`7.png`, `007.png`);
   `NAME.mask.png` beside it is its mask.

Masks are white where a picture is to be compared. A prompt without an image gets a stand-in target later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.image_files import TABLE, pictures_in, slug, table_mapping
from surgery.measures.pictures import from_images, read_mask, read_picture, to_bytes_range


@dataclass(frozen=True)
class Subject:
    """One audited prompt.

    Attributes:
        image: its training image, uint8 [3, height, width]; None where none was given.
        mask: bool [height, width], true where pictures are compared; None for everywhere.
    """

    prompt: str
    image: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def subjects_from(
    prompts: Sequence[str],
    images: str | Path | Mapping[str, Any] | None,
    masks: Mapping[str, Any] | None,
    size: tuple[int, int],
) -> list[Subject]:
    """Match prompts with their training images.

    Args:
        images: a folder, or prompt -> path, PIL image or array [3, height, width]; None for no images.
        masks: prompt -> path or bool array [height, width]; only with `images` as a mapping.
        size: (height, width) that the model draws; pictures are cut and scaled to it.

    Raises:
        UsageError: the folder is missing, holds an image for no prompt, or one that cannot be read.
    """
    if images is None:
        return [Subject(prompt) for prompt in prompts]
    if isinstance(images, Mapping):
        mapping = dict(images)
        mask_of: dict[str, Any] = dict(masks or {})
    else:
        mapping, mask_of = folder_mapping(expanded(images), prompts)
    if not any(prompt in mapping for prompt in prompts):
        raise UsageError(
            "images" if isinstance(images, Mapping) else images,
            "holds an image for none of the prompts",
            "name them by the prompts' numbers (1.png), or give images.csv: prompt,image",
        )
    return [
        Subject(
            prompt,
            _picture(mapping[prompt], size) if prompt in mapping else None,
            _mask(mask_of[prompt], size) if mask_of.get(prompt) is not None else None,
        )
        for prompt in prompts
    ]


def folder_mapping(folder: Path, prompts: Sequence[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Prompt -> image and prompt -> mask in a folder; numbers in file names count in `prompts`.

    Raises:
        UsageError: there is no such folder, or its table cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(folder, "no such folder", "give the folder of the training images")
    table = folder / TABLE
    if table.is_file():
        return table_mapping(table)
    numbers = {str(index): prompt for index, prompt in enumerate(prompts, start=1)}
    names = {slug(prompt): prompt for prompt in prompts}
    images, masks = {}, {}
    for file in pictures_in(folder):
        prompt = names.get(slug(file.stem)) or numbers.get(file.stem.lstrip("0"))
        if prompt is None:
            continue
        images[prompt] = file
        mask = file.with_name(f"{file.stem}.mask.png")
        if mask.is_file():
            masks[prompt] = mask
    return images, masks


def _picture(value: Any, size: tuple[int, int]) -> torch.Tensor:
    if isinstance(value, str | Path):
        return read_picture(value, *size)
    if hasattr(value, "convert"):
        value = from_images([value.resize((size[1], size[0]))])[0]
    picture = to_bytes_range(torch.as_tensor(value))
    if tuple(picture.shape) != (3, *size):
        raise UsageError("images", f"shape {tuple(picture.shape)}", f"give arrays of shape {(3, *size)}")
    return picture


def _mask(value: Any, size: tuple[int, int]) -> torch.Tensor:
    if isinstance(value, str | Path):
        return read_mask(value, *size)
    mask = torch.as_tensor(value).bool()
    if tuple(mask.shape) != size or not bool(mask.any()):
        raise UsageError("masks", f"shape {tuple(mask.shape)}, or all false", f"give bool arrays of {size}")
    return mask
