"""Open a torch pickle: a module of its own, so that nothing else needs the one that knows torch."""

from __future__ import annotations

from pathlib import Path

from surgery.checkpoint.formats.weights import Weights


def open_pickle(path: Path, shown: str) -> Weights:
    """Open a torch pickle; torch is imported only for a checkpoint that has one.

    Raises:
        UsageError: as in `PickleWeights`.
    """
    from surgery.checkpoint.formats.pickle_file import PickleWeights

    return PickleWeights(path, shown)
