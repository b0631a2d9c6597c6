"""The journal of a run: one line per finished prompt, so that a killed run goes on where it stopped.

A JSON-lines file. Its first line is the header `{"format": "surgery.journal/1", "run": {...}}` with
everything that the records depend on (settings, thresholds, model fingerprint); each further line is one
prompt's record: of `localize`, as in `neurons.json`; of `scan`, a score. Lines are flushed to the disk as
their prompts end, so that a kill loses at most the prompts under way; a half-written last line is dropped.
Each process writes a journal of its own, `NAME`, `NAME.1`, ... and reads all of them, so that a run may go on
with another number of processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from surgery.errors import UsageError
from surgery.files import check_writable
from surgery.localization.records import PromptRecord
from surgery.options import unlike


class Recorded(Protocol):
    """What a journal keeps: what was found of one prompt."""

    @property
    def prompt(self) -> str:
        """The prompt."""


Record = TypeVar("Record", bound=Recorded)


@dataclass(frozen=True)
class JournalKind(Generic[Record]):
    """What a journal's lines are.

    Attributes:
        tag: of the format.
        to_json, from_json: a record as the JSON object of a line, and back, nothing lost.
    """

    tag: str
    to_json: Callable[[Record], Mapping[str, Any]]
    from_json: Callable[[Mapping[str, Any]], Record]


OF_LOCALIZE = JournalKind("surgery.journal/1", PromptRecord.as_json, PromptRecord.from_json)


class Journal(Generic[Record]):
    """The journal of one process.

    Args:
        kind: what its lines are.
        path: of process 0's journal.
        run: what the records depend on, as JSON values; a journal made with anything else is refused.
        rank: of this process.

    Attributes:
        records: prompt -> record, of every journal found.

    Raises:
        UsageError: a journal was made with other settings (the differences are named), or cannot be read or
            written.
    """

    def __init__(
        self, kind: JournalKind[Record], path: str | Path, run: Mapping[str, Any], rank: int = 0
    ) -> None:
        self.kind = kind
        first = check_writable(path)
        self.path = first if rank == 0 else first.with_name(f"{first.name}.{rank}")
        self.run = json.loads(json.dumps(run))
        self.records: dict[str, Record] = {}
        for found in journals(first):
            self.records.update(self._read(found))
        self._file = self._open()

    def append(self, records: Sequence[Record]) -> None:
        """Write records and wait until they are on the disk."""
        self._write_lines([self.kind.to_json(record) for record in records])
        self.records.update((record.prompt, record) for record in records)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> Any:
        _drop_half_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        if self.path.stat().st_size == 0:
            self._write_lines([{"format": self.kind.tag, "run": self.run}])
        return self._file

    def _write_lines(self, values: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, path: Path) -> dict[str, Record]:
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                path, f"cannot be read as a journal ({error})", "name another with --journal"
            ) from None
        whole = [line for line in lines if line.endswith("\n")]
        if not whole:
            return {}
        try:
            header, *entries = [json.loads(line) for line in whole]
            if header["format"] != self.kind.tag:
                raise ValueError(f"its format is {header['format']!r}")
            self._refuse_other_run(path, header["run"])
            return {entry["prompt"]: self.kind.from_json(entry) for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(path, f"is not a journal ({error})", "name another with --journal") from None

    def _refuse_other_run(self, path: Path, run: Mapping[str, Any]) -> None:
        differences = []
        for name in sorted({*run, *self.run}):
            there, here = run.get(name), self.run.get(name)
            if there == here:
                continue
            if isinstance(there, dict) and isinstance(here, dict) and name != "fingerprint":
                differences += unlike(there, here)
            else:
                differences.append(
                    "another model" if name == "fingerprint" else f"{name} {there!r} there, {here!r} here"
                )
        if differences:
            raise UsageError(
                path,
                f"was made with other settings ({'; '.join(differences)})",
                "use the same settings, or remove the journal to start anew",
            )


def _drop_half_line(path: Path) -> None:
    """Cut a last line without a line end: the run was killed while writing it."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            file.truncate(whole)


def journals(first: Path) -> list[Path]:
    """The journals of a run that exist: of process 0, of process 1, ..., of all that an earlier start had."""
    siblings = first.parent.iterdir()
    numbered = [path for path in siblings if path.stem == first.name and path.suffix[1:].isdecimal()]
    return sorted(path for path in (first, *numbered) if path.is_file())


def remove_journals(first: str | Path) -> None:
    """Remove all journals of a run, once its result is on the disk."""
    for path in journals(Path(first)):
        path.unlink(missing_ok=True)
