"""The ledger: which steps are done, of which inputs, and what they left.

A step is skipped when its inputs have the hashes that the ledger has, and everything that it left is still as
it was. The ledger is one JSON file in the working folder, written whole after every change, and is private:
it names paths of this machine. Before a step starts, the ledger says that it did, so that what a killed step
left can be told from what a step with other inputs left: the one goes on, the other is cleared away.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.applying.hashes import FileHashes, digest_of
from surgery.errors import UsageError
from surgery.files import json_text, write_atomically

FORMAT = "surgery.apply-state/1"
NAME, LOCK = "state.json", "lock"
NEW, STARTED, DAMAGED = "not done yet", "was interrupted", "what it left is missing or changed"


@dataclass(frozen=True)
class Entry:
    """What the ledger has of one step.

    Attributes:
        inputs: name of an input -> its digest.
        done: whether it came to its end; else it was started.
        left: what it left: name -> hash.
        facts: what it found, as JSON values.
        seconds: that it took.
    """

    inputs: Mapping[str, str]
    done: bool
    left: Mapping[str, str | None]
    facts: Mapping[str, Any]
    seconds: float

    def changed(self, inputs: Mapping[str, str]) -> list[str]:
        """The names of the inputs that are others now."""
        return sorted(name for name in {*inputs, *self.inputs} if inputs.get(name) != self.inputs.get(name))


class Ledger:
    """The ledger of one working folder.

    Args:
        work: the folder; it need not exist until something is written.
        output: the output that the working folder belongs to.

    Attributes:
        hashes: of files, remembered from run to run.
        claimed: whether the output was free when a run of this ledger first wrote to it, and so is ours.

    Raises:
        UsageError: the folder holds something else, or belongs to another output.
    """

    def __init__(self, work: Path, output: Path) -> None:
        self.work, self._path, self._output = work, work / NAME, str(output)
        document = _read(self._path)
        if document is None and work.exists() and not _is_free(work):
            raise UsageError(work, "exists, and is no working folder of apply", "name another with --work")
        if document is not None and document["output"] != self._output:
            raise UsageError(
                work, f"is the working folder of {document['output']}", "name another with --work"
            )
        document = document or {"claimed": False, "files": {}, "steps": {}}
        self.hashes = FileHashes(document["files"])
        self.claimed = bool(document["claimed"])
        self._steps: dict[str, Entry] = {name: Entry(**one) for name, one in document["steps"].items()}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other run out of the working folder; a killed run lets go by itself.

        Raises:
            UsageError: another run holds it.
        """
        self.work.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self.work / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    self.work, "another run is at work in it", "wait for it, or name another with --work"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def entry(self, step: str) -> Entry | None:
        """What is known of a step."""
        return self._steps.get(step)

    @property
    def is_empty(self) -> bool:
        """Whether no step has left anything."""
        return not any(entry.left for entry in self._steps.values())

    def start(self, step: str, inputs: Mapping[str, Any]) -> None:
        """Note that a step begins with these inputs."""
        self._steps[step] = Entry(digests(inputs), False, {}, {}, 0.0)
        self._write()

    def finish(
        self,
        step: str,
        inputs: Mapping[str, Any],
        left: Mapping[str, str | None],
        facts: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Note that a step is done, with what it left and found."""
        self._steps[step] = Entry(digests(inputs), True, dict(left), dict(facts), round(seconds, 3))
        self._write()

    def forget(self, step: str) -> None:
        """Note nothing of a step any more: what it left turned out to be wrong."""
        self._steps.pop(step, None)
        self._write()

    def claim(self) -> None:
        """Note that the output is about to be written for the first time, and was free."""
        self.claimed = True
        self._write()

    def remove(self) -> None:
        """Remove the whole working folder."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _write(self) -> None:
        self.work.mkdir(mode=0o700, exist_ok=True)
        document = {
            "format": FORMAT,
            "output": self._output,
            "claimed": self.claimed,
            "steps": {name: vars(entry) for name, entry in self._steps.items()},
            "files": self.hashes.as_json(),
        }
        write_atomically(self._path, json_text(document).encode())


def _is_free(work: Path) -> bool:
    """Whether a folder holds nothing but the lock of a run that did not come to its first step."""
    return work.is_dir() and all(path.name == LOCK for path in work.iterdir())


def digests(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Name of an input -> digest of its value."""
    return {name: digest_of(value) for name, value in inputs.items()}


def _read(path: Path) -> dict[str, Any] | None:
    """The document; None where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            path, f"cannot be read ({error})", "remove the working folder to begin anew"
        ) from None
    kinds = {"output": str, "claimed": bool, "steps": dict, "files": dict}
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not all(isinstance(document.get(name), kind) for name, kind in kinds.items())
        or not all(
            isinstance(one, dict) and one.keys() == Entry.__annotations__.keys()
            for one in document["steps"].values()
        )
    ):
        raise UsageError(path, "is no state of apply", "remove the working folder to begin anew")
    return document
