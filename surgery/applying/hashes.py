"""Hashes of files, each read once: a file whose size, times and number are as they were has its old hash.

Checkpoints are large, and every start of `apply` asks whether source and output are still what they were. The
change time that is compared cannot be set by a program, so that a file that was written to is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from surgery.errors import SurgeryError


class FileHashes:
    """sha256 of files, remembered.

    Args:
        known: what an earlier run remembered, as `as_json` gave it.
    """

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        self._known: dict[str, Any] = dict(known or {})
        self._asked: set[str] = set()

    def of(self, path: Path) -> str | None:
        """The sha256 of a file, hexadecimal; None where there is no such regular file.

        Raises:
            SurgeryError: it cannot be read.
        """
        name = os.fspath(path)
        try:
            if not path.is_file():
                return None
            state = _state(path)
            known = self._known.get(name)
            if not (isinstance(known, dict) and known.get("state") == state):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._known[name] = {"state": state, "sha256": digest}
        except OSError as error:
            raise SurgeryError(path, f"cannot be read ({error.strerror or error})", "run again") from None
        self._asked.add(name)
        return str(self._known[name]["sha256"])

    def of_folder(self, folder: Path, paths: Iterable[Path]) -> dict[str, str | None]:
        """Path within the folder -> sha256, of the given files."""
        return {path.relative_to(folder).as_posix(): self.of(path) for path in sorted(paths)}

    def learn(self, known: Mapping[str, Any]) -> None:
        """Take over what another process knows, as its `as_json` gave it."""
        self._known |= known

    def as_json(self) -> dict[str, Any]:
        """What to remember: the files that this run asked for."""
        return {name: self._known[name] for name in sorted(self._asked)}


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones too, in order; links to files count, links to folders do not."""
    found = []
    for place, _, names in os.walk(folder):
        found += [Path(place) / name for name in names]
    return sorted(found)


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
