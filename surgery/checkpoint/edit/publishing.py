"""From the staging folder to the output: never over what is not ours, and whole at every moment.

A folder is one rename. A single file has its manifest beside it, and no two names change in one step:

1. The old manifest goes first: at no moment does a manifest vouch for weights that it does not describe.
2. The new weights take their place, the old ones end up in the staging folder.
3. The new manifest follows.

Before step 1 the staging folder notes which file is the old one and which the new. A run that was killed on
the way is ended by `settle`, called by the next run: the new manifest follows, or the old one comes back.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.edit.destination import check_free, manifest_beside
from surgery.checkpoint.edit.renames import identity, put, swap, sync_folder
from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.errors import SurgeryError, UsageError

CONTENT = "content"
_NOTE, _REPLACED, _REPLACED_MANIFEST = "publishing", "replaced", "replaced-manifest"
_TRIES = 10  # each lost to somebody who made or removed the output at that very moment
_LONGEST_WAIT = 10.0  # seconds; publishing takes milliseconds


@dataclass(frozen=True, slots=True)
class Staging:
    """A folder beside the output in which everything is made ready.

    Attributes:
        folder: hidden, locked, and marked as ours.
        output: where its content goes.
        is_file: whether that is a single file with a manifest beside it.
        force: whether an output of ours may be replaced.
    """

    folder: Path
    output: Path
    is_file: bool
    force: bool

    @property
    def content(self) -> Path:
        """Where the files are written: all of an output folder, or a single file and its manifest."""
        return self.folder / CONTENT

    def publish(self) -> Path:
        """Put the fsynced content in place; returns where the manifest is.

        Raises:
            UsageError: something is there by now that may not be replaced; it was not touched.
            SurgeryError: the output stands, but is not known to be durable.
            OSError: the file system refuses; the output is as before.
        """
        with output_lock(self.output):
            if self.is_file:
                manifest_path = self._publish_file()
            else:
                self._publish(self.content)
                manifest_path = self.output / MANIFEST_NAME
        try:
            sync_folder(self.output.parent)
        except OSError as error:
            cause = f"was written, but may not outlast a power cut ({error.strerror})"
            raise SurgeryError(self.output, cause, "check the disk, then the output") from error
        return manifest_path

    def _publish_file(self) -> Path:
        beside = manifest_beside(self.output)
        staged = self.content / self.output.name
        known = identity(self.output) if os.path.lexists(self.output) else None
        check_free(self.output, True, self.force)
        self._note(staged)
        if os.path.lexists(beside):
            beside.rename(self.folder / _REPLACED_MANIFEST)
            sync_folder(beside.parent)
        self._publish(staged, known)
        try:
            put(self.content / MANIFEST_NAME, beside)
        except FileExistsError:
            self._withdraw(staged)
            raise _taken(beside) from None
        return beside

    def _publish(self, staged: Path, checked: tuple[int, int] | None = None) -> None:
        """One rename to the output, if that is free, or ours and to be replaced.

        Args:
            staged: what to put there.
            checked: the identity of what is there, if that was found to be ours.
        """
        aside = self.folder / _REPLACED
        for _ in range(_TRIES):
            if not self.force or not os.path.lexists(self.output):
                try:
                    return put(staged, self.output)
                except FileExistsError:
                    if self.force:
                        continue
                    raise _taken(self.output) from None
            try:
                if checked is None:
                    checked = identity(self.output)
                    check_free(self.output, self.is_file, self.force)
                swap(staged, self.output, aside)
            except FileNotFoundError:
                continue
            if identity(aside) == checked:
                return None
            # Somebody put another thing there since it was looked at: it goes back.
            swap(aside, self.output, staged)
            checked = None
        raise _taken(self.output)

    def _withdraw(self, staged: Path) -> None:
        """Take back weights that stand without their manifest."""
        if (self.folder / _REPLACED).exists():
            swap(self.folder / _REPLACED, self.output, staged)
        else:
            self.output.rename(staged)

    def _note(self, staged: Path) -> None:
        old = _known(self.output) if os.path.lexists(self.output) else None
        with (self.folder / _NOTE).open("w") as file:
            json.dump({"new": _known(staged), "old": old}, file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.folder)


def settle(folder: Path, output: Path) -> None:
    """End what a run could not end: complete its publishing, or put back what it had taken away.

    Args:
        folder: its staging folder, which is ours and in which nobody works.
        output: where its content was to go.
    """
    with suppress(OSError), output_lock(output):
        if not os.path.lexists(output) and (folder / _REPLACED).exists():
            put(folder / _REPLACED, output)
        if not (folder / _NOTE).is_file() or not os.path.lexists(output):
            return
        try:
            note = json.loads((folder / _NOTE).read_text())
        except ValueError:  # killed while it was noted: nothing had been touched
            return
        if _known(output) == note["new"]:
            put(folder / CONTENT / MANIFEST_NAME, manifest_beside(output))
        elif _known(output) == note["old"]:
            put(folder / _REPLACED_MANIFEST, manifest_beside(output))


@contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Runs that publish into the same folder take turns; where there are no locks, they do not."""
    descriptor = None
    try:
        with suppress(OSError):
            descriptor = os.open(output.parent, os.O_RDONLY)
        give_up = time.monotonic() + _LONGEST_WAIT
        while descriptor is not None and time.monotonic() < give_up:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:
                break
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _known(path: Path) -> list[int]:
    """By which a file is known again after a restart of the machine."""
    status = path.lstat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _taken(place: Path) -> UsageError:
    return UsageError(
        place, "appeared while this run wrote; nothing was replaced", "choose another name, or use --force"
    )
