"""The state of an audit under way: one file per finished unit of work, so that a killed audit goes on.

A unit is a JSON object (numbers, and pictures as base64 PNG). `header.json` keeps what the measurements
depend on; an audit with anything else refuses to go on from it and says what differs. Files appear whole or
not at all. The state holds pictures of memories whatever the report hides: it lies in `state/` inside the
output folder, readable by its owner only, and is removed once everything asked for has been measured.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from surgery.auditing.measures.pictures import to_png
from surgery.errors import UsageError
from surgery.files import write_atomically

FORMAT = "surgery.audit-state/1"


class Store:
    """The state folder of one audit.

    Args:
        folder: the audit's output folder, made if need be.
        header: what the measurements depend on, as JSON values.

    Raises:
        UsageError: the folder holds the state of an audit with another header (what differs is named).
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder / "state"
        self.resumed = 0
        wanted = json.loads(json.dumps({"format": FORMAT, **header}))
        path = self.folder / "header.json"
        if path.is_file():
            _refuse_other_header(path, wanted)
        else:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    folder, f"cannot be made ({error.strerror})", "give another output folder"
                ) from None
            write_atomically(path, json.dumps(wanted, indent=1).encode())

    def load(self, key: str) -> dict[str, Any] | None:
        """The finished unit, or None. A damaged file counts as not finished."""
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            unit = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        self.resumed += 1
        return unit if isinstance(unit, dict) else None

    def save(self, key: str, unit: Mapping[str, Any]) -> None:
        """Keep a finished unit."""
        write_atomically(self.folder / f"{key}.json", json.dumps(unit).encode())

    def remove(self) -> None:
        """Remove the whole state."""
        shutil.rmtree(self.folder, ignore_errors=True)


def pack(pictures: torch.Tensor) -> list[str]:
    """Pictures [count, 3, height, width] -> base64 PNGs."""
    return [base64.b64encode(to_png(picture)).decode("ascii") for picture in pictures]


def unpack(packed: Sequence[str]) -> torch.Tensor:
    """base64 PNGs -> uint8 [count, 3, height, width]."""
    images = [Image.open(io.BytesIO(base64.b64decode(one))) for one in packed]
    arrays = [numpy.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in images]
    return torch.from_numpy(numpy.stack(arrays))


def _refuse_other_header(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    differences = []
    for name in sorted({*found, *wanted}):
        there, here = found.get(name), wanted.get(name)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            differences += [
                f"{inner} {there.get(inner)!r} there, {here.get(inner)!r} here"
                for inner in sorted({*there, *here})
                if there.get(inner) != here.get(inner)
            ]
        else:
            differences.append(name)
    if differences:
        raise UsageError(
            path.parent,
            f"is an unfinished audit with other settings or inputs ({'; '.join(differences)})",
            "use the same ones, or another output folder",
        )
