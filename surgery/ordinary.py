"""Which ordinary captions a model is calibrated on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from surgery.corpus import collect_prompts, read_prompts
from surgery.errors import UsageError
from surgery.files import expanded

Item = TypeVar("Item")
BESIDE_THE_MODEL = "ordinary-prompts.txt"
PACKAGED = "packaged ordinary captions"


def ordinary_prompts(
    model: str | Path, path: str | Path | None = None, column: str | None = None
) -> tuple[list[str], str]:
    """The ordinary captions for a model, and where they came from.

    Args:
        model: its folder, file or Hub id.
        path: a corpus of ordinary captions.
        column: its caption column.

    A given file comes first; then `ordinary-prompts.txt` in the model's own folder (a model with a vocabulary
    of its own brings its captions along); then the captions that ship with this package.

    Raises:
        UsageError: the file cannot be read as a corpus, or holds fewer than two captions.
    """
    beside = expanded(model) / BESIDE_THE_MODEL
    if path is not None:
        corpus = read_prompts(path, column)
    elif beside.is_file():
        corpus = read_prompts(beside)
    else:
        return packaged_captions(), PACKAGED
    if len(corpus.prompts) < 2:
        raise UsageError(path or beside, "holds a single caption", "a standard deviation needs at least two")
    return corpus.prompts, corpus.source


def ordinary_besides(
    prompts: Iterable[str], model: str | Path, path: str | Path | None = None
) -> tuple[list[str], str]:
    """The ordinary captions of `ordinary_prompts` that are none of `prompts`, and where they came from.

    Raises:
        UsageError: as there, or none is left.
    """
    asked = set(prompts)
    listed, source = ordinary_prompts(model, path)
    found = [prompt for prompt in listed if prompt not in asked]
    if not found:
        raise UsageError(path or source, "holds no caption but the prompts", "give ordinary captions")
    return found, source


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, from beginning to end: lists of captions are often sorted by kind."""
    return list(items[:: max(1, len(items) // max(1, count))][:count])


def packaged_captions() -> list[str]:
    """The ordinary captions that ship with this package."""
    text = (files("surgery") / "captions" / "ordinary.txt").read_text(encoding="utf-8")
    return collect_prompts(text.splitlines()).prompts
