"""The state of a hardening under way: the student after its latest round, so that a killed run goes on.

It lies in a folder of its own beside the output (`.NAME.hardening`), readable by its owner only, holds
weights and attacked embeddings, and is removed when the edit has been written. All chance of a round comes
from its number, so a run that goes on ends as one that was never stopped; one whose rounds were not enough
goes on with more of them. Each rung has a file of its own, so that no rung is climbed twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from surgery.errors import SurgeryError, UsageError
from surgery.files import write_atomically
from surgery.hardening.lessons import Lessons
from surgery.hardening.pools import Pools
from surgery.model.conditioning import Conditioning
from surgery.options import unlike_headers

FORMAT = "surgery.hardening-state/2"


class State:
    """The folder of one hardening.

    Args:
        folder: made if need be.
        header: what the run depends on, as JSON values.

    Raises:
        UsageError: the folder holds the state of another run, or cannot be made.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder
        wanted = json.loads(json.dumps({"format": FORMAT, **header}))
        path = folder / "header.json"
        if path.is_file():
            found = _read(path)
            if differences := unlike_headers(found, wanted):
                raise UsageError(
                    folder,
                    f"is an unfinished run with other settings or inputs ({'; '.join(differences)})",
                    "use the same ones, remove it, or give another output",
                )
            return
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UsageError(folder, f"cannot be made ({error.strerror})", "give another output") from None
        write_atomically(path, json.dumps(wanted, indent=1).encode())

    def save(self, rung: str, rounds: list[dict[str, Any]], content: Mapping[str, Any], pools: Pools) -> None:
        """Keep what the next round needs: of an older round nothing is left.

        Args:
            rounds: the records of this rung so far.
            content: tensors by any names: weights, optimizer.
        """
        written = self.folder / f"round-{rung}.part"
        torch.save({"rounds": rounds, "content": content, "pools": asdict(pools)}, written)
        written.replace(self.folder / f"round-{rung}.pt")

    def load(self, rung: str) -> tuple[list[dict[str, Any]], dict[str, Any], Pools] | None:
        """What `save` kept of this rung, or None.

        Raises:
            SurgeryError: it cannot be read.
        """
        path = self.folder / f"round-{rung}.pt"
        if not path.is_file():
            return None
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has no one class for a damaged file
            raise SurgeryError(path, f"cannot be read ({type(error).__name__})", "remove it") from None
        pools = found["pools"]
        return (
            found["rounds"],
            found["content"],
            Pools(
                [[Conditioning(**one) for one in pool] for pool in pools["embeddings"]],
                [[(vectors, Conditioning(**under)) for vectors, under in pool] for pool in pools["outputs"]],
                list(pools["recalls"]),
                None if pools["paths"] is None else Lessons(**pools["paths"]),
            ),
        )

    def finished(self, rung: str, record: Mapping[str, Any]) -> None:
        """Note that a rung is over, with what the gate said last."""
        write_atomically(self.folder / f"rung-{rung}.json", json.dumps(record).encode())

    def finished_record(self, rung: str) -> dict[str, Any] | None:
        """What `finished` noted, or None."""
        path = self.folder / f"rung-{rung}.json"
        return _read(path) if path.is_file() else None

    def remove(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}
