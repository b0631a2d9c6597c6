"""`NeuronSet`: the only thing that passes between the wing that runs models and the wing that edits bytes.

A neuron is one output row of a value layer (a cross-attention value projection). A `NeuronSet` maps the
diffusers module name of a value layer, such as
``down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v``, to the sorted, unique rows meant.

Its file is `neurons.json`. The least valid file, written by hand, is::

    {"format": "surgery.neurons/1", "layers": {"mid_block.attentions.0.transformer_blocks.0.attn2.to_v": [3]}}

Whatever else `surgery localize` writes into it (fingerprint, settings, one record per prompt) is evidence,
ignored here.
"""

from __future__ import annotations

import json
import operator
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.files import expanded

FORMAT = "surgery.neurons/1"
LARGEST_BYTES = 64 * 1024 * 1024  # records of some 30,000 memorized prompts; parsing takes five times as much
LAYER_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


class NeuronSet(Mapping[str, tuple[int, ...]]):
    """An immutable mapping: value layer name -> sorted, unique rows. Layers without rows are dropped.

    Args:
        layers: layer name -> rows, in any order, duplicates allowed.

    Raises:
        UsageError: a row is not an integer of at least 0, or a layer name is not a dotted module name.
    """

    def __init__(self, layers: Mapping[str, Iterable[int]] | None = None) -> None:
        checked: dict[str, set[int]] = {}
        for layer, rows in (layers or {}).items():
            if not isinstance(layer, str) or not LAYER_NAME.fullmatch(layer):
                raise UsageError(
                    layer, "is not the name of a layer", "write the dotted diffusers module name"
                )
            if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
                raise UsageError(layer, f"rows must be a list of integers, not {rows!r}", "write [row, ...]")
            unique = checked.setdefault(layer.removesuffix(".weight"), set())
            unique.update(_row(layer, row) for row in _each(layer, rows))
        self._layers = {layer: tuple(sorted(unique)) for layer, unique in checked.items() if unique}

    def __getitem__(self, layer: str) -> tuple[int, ...]:
        return self._layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        """The number of LAYERS with neurons, as for any mapping; `count` is the number of neurons."""
        return len(self._layers)

    def __hash__(self) -> int:
        return hash(frozenset(self._layers.items()))

    def __repr__(self) -> str:
        return f"NeuronSet({self._layers!r})"

    @property
    def count(self) -> int:
        """The number of neurons over all layers."""
        return sum(len(rows) for rows in self._layers.values())

    def pairs(self) -> list[tuple[str, int]]:
        """Every neuron as (layer, row), layers in their stored order, rows rising."""
        return [(layer, row) for layer, rows in self._layers.items() for row in rows]

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, int]]) -> NeuronSet:
        """The set holding the given (layer, row) pairs; layers keep the order in which they first appear."""
        layers: dict[str, list[int]] = {}
        for layer, row in pairs:
            layers.setdefault(layer, []).append(row)
        return cls(layers)

    def union(self, *others: NeuronSet) -> NeuronSet:
        """The neurons in this set or in any of the others."""
        return NeuronSet.from_pairs(pair for neurons in (self, *others) for pair in neurons.pairs())

    def as_json(self) -> dict[str, list[int]]:
        """Layer name -> list of rows, for a JSON document's ``layers`` field."""
        return {layer: list(rows) for layer, rows in self._layers.items()}


def _each(layer: str, rows: Iterable[Any]) -> Iterator[Any]:
    try:
        return iter(rows)
    except TypeError:  # an array without dimensions calls itself iterable
        raise UsageError(
            layer, f"rows must be a list of integers, not {rows!r}", "write [row, ...]"
        ) from None


def _row(layer: str, row: Any) -> int:
    """A row as a plain int; the integers of numpy and torch count too, truth values do not."""
    is_truth = isinstance(row, bool) or str(getattr(row, "dtype", "")).endswith("bool")
    try:
        number = -1 if is_truth else operator.index(row)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(layer, f"row {row!r} is not an integer of at least 0", "rows count from 0")
    return number


def read_neurons_document(path: str | Path) -> dict[str, Any]:
    """Read a `neurons.json` and return the whole document, its ``format`` and ``layers`` checked.

    Raises:
        UsageError: the file is missing, not JSON, repeats a key, or is not of format `surgery.neurons/1`.
    """
    path = expanded(path)
    try:
        status = path.stat()  # before anything is read: a pipe never ends, a sparse file fills the memory
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_BYTES:
            cause = f"is no regular file of at most {LARGEST_BYTES >> 20} MB"
            raise UsageError(path, cause, "give a neurons.json; its `format` and `layers` are enough")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(path, "no such file", "write it with `surgery localize`, or by hand") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(path, f"cannot be read as text ({error})", "give a neurons.json") from None
    try:
        document = json.loads(text, object_pairs_hook=_refuse_repeated_keys)
    except (ValueError, RecursionError) as error:
        raise UsageError(path, f"is not valid JSON ({error})", "give a neurons.json") from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise UsageError(path, f"its format is {found!r}", f'give a file that starts {{"format": "{FORMAT}"')
    if not isinstance(document.get("layers"), dict):
        raise UsageError(path, "it has no `layers` object", "write layer name -> list of rows")
    try:
        NeuronSet(document["layers"])
    except UsageError as error:
        raise UsageError(f"{path}: {error.thing}", error.cause, error.way_out) from None
    return document


def read_neurons(path: str | Path) -> NeuronSet:
    """Read the `NeuronSet` of a `neurons.json`; errors as in `read_neurons_document`."""
    return NeuronSet(read_neurons_document(path)["layers"])


def load_neurons(
    neurons: NeuronSet | Mapping[str, Sequence[int]] | str | Path,
) -> tuple[NeuronSet, Mapping[str, Any] | None]:
    """The neurons as a `NeuronSet`, and the fingerprint of their model, where a file tells it.

    Raises:
        UsageError: as in `NeuronSet` and `read_neurons_document`.
    """
    if isinstance(neurons, NeuronSet):
        return neurons, None
    if isinstance(neurons, Mapping):
        return NeuronSet(neurons), None
    document = read_neurons_document(neurons)
    return NeuronSet(document["layers"]), document.get("fingerprint")


def shortened_rows(rows: Sequence[int], limit: int = 8) -> str:
    """Row numbers for people: `3, 7-9, 12 and 40 more`."""
    spans: list[list[int]] = []
    for row in rows:
        if spans and spans[-1][1] == row - 1:
            spans[-1][1] = row
        else:
            spans.append([row, row])
    shown = ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in spans[:limit])
    rest = sum(end - start + 1 for start, end in spans[limit:])
    return f"{shown} and {rest} more" if rest else shown


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json keeps the last of two equal keys: neurons listed under the first would silently not be zeroed.
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key {key!r} stands twice")
        seen[key] = value
    return seen
