"""The table of lies, what a lie is told about, and what several lies need."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lying.layouts import Layout, manifest_path, namings
from lying.once_believed import ONCE_BELIEVED
from lying.raw import (
    DTYPES,
    Entry,
    Raw,
    read_raw,
    rewrite,
)

PROMPT = "a photograph of Ann Example by the lake, 1987"


class NotHere(Exception):
    """This lie cannot be told about this output."""


@dataclass
class Told:
    """An output that is being lied about.

    Attributes:
        layout: which one it is.
        path: the output; a lie may lead to another path.
        elsewhere: an empty folder outside of the output.
    """

    layout: Layout
    path: Path
    elsewhere: Path

    def weight_files(self) -> list[Path]:
        """Every safetensors file of the output."""
        return [self.path] if self.path.is_file() else sorted(self.path.rglob("*.safetensors"))

    def files(self) -> list[Path]:
        """Every file that the proof speaks of; the manifest has lies of its own."""
        if self.path.is_file():
            return [self.path]
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        return [path for path in found if path != manifest_path(self.path)]

    def shown(self, path: Path) -> str:
        """A file as messages call it."""
        return path.name if self.path.is_file() else path.relative_to(self.path).as_posix()

    def value_tensors(self, kind: str = "weight") -> list[ValueTensor]:
        """The tensors of the planned layers, in every copy."""
        found = []
        for path in self.weight_files():
            names = set(read_raw(path).names())
            for layer in self.layout.rows:
                for name in namings(f"{layer}.{kind}").values():
                    if name in names:
                        found.append(ValueTensor(path, name, layer, kind))
        return found

    def original(self, value: ValueTensor, dtype: str) -> torch.Tensor:
        """What a value tensor was before the patch."""
        return self.layout.originals[value.name].to(DTYPES[dtype])


@dataclass(frozen=True)
class ValueTensor:
    """One copy of a planned layer's weight or bias: its file, name in it, layer and kind."""

    path: Path
    name: str
    layer: str
    kind: str


Words = tuple[str, ...]  # a violation names at least one of them
Tell = Callable[[random.Random, Told], Words]


@dataclass(frozen=True)
class Lie:
    """One kind of lie.

    Attributes:
        tell: tells it about an output, in place, and returns words of which a violation names one.
        applies: whether it can be told about a layout.
        once_believed: why the proof of commit 311f282 believed some of it; "" if it believed none.
    """

    tell: Tell
    applies: Callable[[Layout], bool]
    once_believed: str = ""


LIES: dict[str, Lie] = {}


def anywhere(layout: Layout) -> bool:
    """Every layout, also A and B of different ones."""
    return True


def is_written(layout: Layout) -> bool:
    """Outputs of `patch`, of which every byte is known."""
    return layout.is_patched


def is_folder(layout: Layout) -> bool:
    """Folders."""
    return layout.is_patched and not layout.is_file


def is_any_folder(layout: Layout) -> bool:
    """Folders, also where A is a single file: weights in them must not go unseen."""
    return not layout.is_file


def is_pipeline(layout: Layout) -> bool:
    """Folders with a `model_index.json`."""
    return layout.is_patched and layout.kind == "pipeline"


def is_sharded(layout: Layout) -> bool:
    """Folders whose denoiser lies in shards."""
    return layout.name in ("sharded", "Hunyuan")


def is_whole(layout: Layout) -> bool:
    """Folders whose denoiser lies in one file."""
    return is_folder(layout) and not is_sharded(layout)


def is_biased(layout: Layout) -> bool:
    """Denoisers whose value layers have biases."""
    return layout.name in ("PixArt", "Hunyuan")


def is_of_several_files(layout: Layout) -> bool:
    """Outputs with more than one weight file."""
    return is_pipeline(layout) or is_sharded(layout)


def has_left_out(layout: Layout) -> bool:
    """Sources with weights that `patch` leaves out."""
    return layout.name in ("extra", "pickled")


def lie(name: str, applies: Callable[[Layout], bool] = anywhere) -> Callable[[Tell], Tell]:
    """Enter a function into the table."""

    def enter(tell: Tell) -> Tell:
        assert name not in LIES
        LIES[name] = Lie(tell, applies, ONCE_BELIEVED.get(name, ""))
        return tell

    return enter


def some_value(random: random.Random, told: Told, kind: str = "weight") -> ValueTensor:
    """A copy of a planned layer."""
    found = told.value_tensors(kind)
    if not found:
        raise NotHere
    return random.choice(found)


def some_weights(random: random.Random, told: Told) -> Path:
    """A safetensors file; of the denoiser as often as of the others together."""
    denoiser = sorted({value.path for value in told.value_tensors()})
    return random.choice(denoiser if random.random() < 0.5 else told.weight_files())


def some_tensor(random: random.Random, told: Told, wanted: Callable[[Entry], bool]) -> tuple[Path, Entry]:
    """A tensor with a property, and its file."""
    first, others = some_weights(random, told), told.weight_files()
    random.shuffle(others)
    for path in (first, *others):
        if found := [entry for entry in read_raw(path).entries if wanted(entry)]:
            return path, random.choice(found)
    raise NotHere


def replace_tensor(path: Path, name: str, entry: Entry) -> None:
    """Put another tensor at the place of one."""

    def change(raw: Raw) -> None:
        raw.entries[raw.names().index(name)] = entry

    rewrite(path, change)


def add_tensors(random: random.Random, path: Path, added: list[Entry]) -> None:
    """Add tensors at a random place of a file."""

    def change(raw: Raw) -> None:
        if set(raw.names()) & {entry.name for entry in added}:
            raise NotHere
        place = random.choice([0, len(raw.entries), random.randrange(len(raw.entries) + 1)])
        raw.entries[place:place] = added

    rewrite(path, change)


def original_weights(random: random.Random, told: Told) -> dict[str, torch.Tensor]:
    """The denoiser's weights as they were: of a file of the output, with the planned rows restored."""
    return restored(told, some_value(random, told).path)


def restored(told: Told, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of the output as they were in the source."""
    tensors = load_file(path)
    for value in told.value_tensors() + told.value_tensors("bias"):
        if value.path == path:
            dtype = next(name for name, each in DTYPES.items() if each == tensors[value.name].dtype)
            tensors[value.name] = told.original(value, dtype)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def as_safetensors(told: Told, tensors: dict[str, torch.Tensor]) -> bytes:
    path = told.elsewhere / "weights.safetensors"
    save_file(tensors, path)
    return path.read_bytes()


def as_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
