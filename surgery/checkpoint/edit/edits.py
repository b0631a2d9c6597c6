"""One idea of an edit: this tensor, these rows, that new content.

All edits are known before the first byte is written. `FileEdits.expected` is the single place that knows what
the output must hold; writing, hashing, verification, manifest and proof ask it. A new kind of edit is a new
`Content` and a `Change` that says where it goes; nothing else has to learn of it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from surgery.checkpoint.formats.safetensors_file import Tensor, joined, row_positions
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.errors import SurgeryError
from surgery.neurons import NeuronSet

Span = tuple[int, int]


class Content(Protocol):
    """What takes the place of a tensor's bytes.

    Attributes:
        name: the manifest's field for what was edited so.
        failure: what is said of a row that should hold it and does not.
    """

    name: str
    failure: str

    def read(self, begin: int, end: int) -> bytes:
        """The new bytes from `begin` up to `end`, counted from the start of the tensor."""
        ...

    def entry(self, edit: Edit) -> Any:
        """What the manifest says of an edit, under the tensor's name."""
        ...


class Zeros:
    """True zero bytes: multiplying by zero would leave -0.0 and NaN behind."""

    name = "zeroed"
    failure = "is not zero"

    def read(self, begin: int, end: int) -> bytes:
        """`end - begin` zero bytes."""
        return bytes(end - begin)

    def entry(self, edit: Edit) -> list[int]:
        """The rows."""
        return list(edit.rows)


ZEROS = Zeros()


@dataclass(frozen=True, slots=True)
class Edit:
    """Rows of one tensor of one file that take another content.

    Attributes:
        file: the file's path within the source.
        layer: the diffusers name of the layer that the tensor belongs to.
        tensor: where it lies in the file.
        rows: rising; entries of the first dimension.
        content: what takes their place.
    """

    file: str
    layer: str
    tensor: Tensor
    rows: tuple[int, ...]
    content: Content

    def __post_init__(self) -> None:
        # a row beyond the tensor would be written over its neighbor
        if self.rows and not 0 <= self.rows[0] <= self.rows[-1] < (self.tensor.shape or (0,))[0]:
            raise SurgeryError(self.layer, f"{self.tensor.name} has no row {self.rows[-1]}", "")


class FileEdits:
    """All edits of one file.

    Args:
        edits: in any order; an edit without rows is none.

    Attributes:
        ranges: the byte ranges of the file that are edited, rising, neighbors joined.

    Raises:
        SurgeryError: two edits want the same bytes.
    """

    def __init__(self, edits: Iterable[Edit] = ()) -> None:
        self._edits = tuple(edit for edit in edits if edit.rows)
        pieces = [(span, edit) for edit in self._edits for span in row_positions(edit.tensor, edit.rows)]
        self._pieces = sorted(pieces, key=lambda piece: piece[0])
        for (before, _), (after, edit) in zip(self._pieces, self._pieces[1:], strict=False):
            if after[0] < before[1]:
                raise SurgeryError(edit.file, f"two edits want the same bytes of {edit.tensor.name}", "")
        self._ends = [end for (_, end), _ in self._pieces]
        self.ranges = joined(span for span, _ in self._pieces)

    def __iter__(self) -> Iterator[Edit]:
        return iter(self._edits)

    def __len__(self) -> int:
        return len(self._edits)

    def expected(self, data: bytes, position: int) -> bytes:
        """What the output holds at `position` of the file where the source holds `data`.

        The very same object comes back where nothing is edited.
        """
        stop = position + len(data)
        changed: bytearray | None = None
        for (begin, end), edit in self._pieces[bisect.bisect_right(self._ends, position) :]:
            first, last = max(begin, position), min(end, stop)
            if first >= last:
                break
            changed = bytearray(data) if changed is None else changed
            start = edit.tensor.begin
            changed[first - position : last - position] = edit.content.read(first - start, last - start)
        return data if changed is None else bytes(changed)

    def within(self, tensor: Tensor) -> list[Span]:
        """The edited ranges of one tensor; where its neighbors are edited too, ranges run on into them."""
        return [
            (max(begin, tensor.begin), min(end, tensor.end))
            for begin, end in self.ranges
            if begin < tensor.end and end > tensor.begin
        ]


class Change(Protocol):
    """What is to become of a denoiser, before it is known where its tensors lie."""

    def edits(self, copy: DenoiserCopy) -> Iterable[Edit]:
        """The edits of one copy; what the copy lacks has none (planning refuses it, the proof reports it)."""
        ...


@dataclass(frozen=True, slots=True)
class ZeroRows:
    """The change that `patch` is for: neurons become zero, their biases too."""

    neurons: NeuronSet

    def edits(self, copy: DenoiserCopy) -> list[Edit]:
        """One edit for each weight and bias."""
        return [
            Edit(path, layer, tensor, _rows_of(tensor, rows), ZEROS)
            for layer, rows in self.neurons.items()
            if layer in copy.layers
            for path, tensor in copy.layers[layer].tensors()
        ]


def _rows_of(tensor: Tensor, rows: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(row for row in rows if tensor.shape and row < tensor.shape[0])


def edits_by_file(copies: Iterable[DenoiserCopy], changes: Sequence[Change]) -> dict[str, FileEdits]:
    """The edits of every file that holds a part of a copy: path within the source -> its edits."""
    found: dict[str, list[Edit]] = {}
    for copy in copies:
        for change in changes:
            for edit in change.edits(copy):
                found.setdefault(edit.file, []).append(edit)
    return {path: FileEdits(edits) for path, edits in found.items()}
