"""What `patch` and `diff` are given, loaded: neurons, and pickles (with torch, only where there is one)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.checkpoint.formats.weights import Weights
from surgery.neurons import NeuronSet, read_neurons_document


def load_neurons(
    neurons: NeuronSet | Mapping[str, Sequence[int]] | str | Path,
) -> tuple[NeuronSet, Mapping[str, Any] | None]:
    """The neurons as a `NeuronSet`, and the fingerprint of their model, where a file tells it."""
    if isinstance(neurons, NeuronSet):
        return neurons, None
    if isinstance(neurons, Mapping):
        return NeuronSet(neurons), None
    document = read_neurons_document(neurons)
    return NeuronSet(document["layers"]), document.get("fingerprint")


def open_pickle(path: Path, shown: str) -> Weights:
    """Open a torch pickle; torch is imported only for a checkpoint that has one."""
    from surgery.checkpoint.formats.pickle_file import (
        PickleWeights,
    )

    return PickleWeights(path, shown)
