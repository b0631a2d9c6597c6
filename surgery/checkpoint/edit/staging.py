"""Write somewhere else first, publish by one rename: killed at any moment, the output is absent or whole.

1. A hidden sibling folder of the output is made (same file system, so that rename is atomic), locked, and
   then marked as ours. In this order: a mark without a lock means that its run is dead.
2. Everything is written into it and fsynced.
3. A rename puts it in place (`surgery.checkpoint.edit.publishing`).
4. On an error the sibling is removed. What a killed run left behind is settled and removed by the next run.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surgery.checkpoint.edit.publishing import Staging, settle
from surgery.errors import SurgeryError, UsageError

MARK = "surgery-staging"
_RANDOM = 8  # hexadecimal digits
_LONGEST_NAME = 200  # bytes; file systems allow 255, and a prefix and a random suffix are added


@contextmanager
def staging_folder(output: Path, is_file: bool = False, force: bool = False) -> Iterator[Staging]:
    """A locked, hidden folder beside `output`, removed at the end whatever happens.

    Args:
        output: from `surgery.checkpoint.edit.destination.check_output`.
        is_file, force: as in `Staging`.

    Raises:
        UsageError: it cannot be made there.
        SurgeryError: writing failed (disk full, no permission, an operation that the file system lacks).
    """
    folder, descriptor = _locked_folder(output)
    try:
        yield Staging(folder, output, is_file, force)
    except OSError as error:
        raise SurgeryError(output, f"could not be written ({error})", _way_out(error)) from error
    finally:
        settle(folder, output)
        _remove(folder)
        os.close(descriptor)


def remove_leftovers(output: Path) -> None:
    """Settle and remove what killed runs left beside an output.

    Only folders with our mark that nobody holds; and empty ones, where their name is one that we give: a run
    may be killed before it has left its mark, and after it took it away.
    """
    try:
        with os.scandir(output.parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(_prefix(output))]
    except OSError:
        return
    for name in names:
        folder = output.with_name(name)
        if not _is_ours(folder, output):
            continue
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its run is alive
            settle(folder, output)
            _remove(folder)
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _locked_folder(output: Path) -> tuple[Path, int]:
    """A new hidden folder beside the output, marked, and the open descriptor that holds its lock.

    Raises:
        UsageError: it cannot be made there.
    """
    while True:
        folder = output.with_name(_name(output, secrets.token_hex(_RANDOM // 2)))
        descriptor = None
        try:
            folder.mkdir(0o700)
            descriptor = os.open(folder, os.O_RDONLY)
            _lock(descriptor)
            (folder / MARK).write_bytes(_mark(output))
            return folder, descriptor
        except OSError as error:
            if descriptor is not None:
                _remove(folder)
                os.close(descriptor)
            # The name is taken, or another run took the empty folder for a leftover.
            if isinstance(error, FileExistsError | BlockingIOError):
                continue
            if isinstance(error, FileNotFoundError) and output.parent.is_dir():
                continue
            cause = f"cannot be written to ({error.strerror})"
            raise UsageError(output.parent, cause, "write elsewhere") from None


def _lock(descriptor: int) -> None:
    """Lock an open folder; where the file system has no locks, leftovers of killed runs stay where they are.

    Raises:
        BlockingIOError: another run holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def _remove(folder: Path) -> None:
    """Remove a folder of ours, its mark last: whoever is killed on the way leaves it to the next run."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.name == MARK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        if os.listdir(folder) in ([], [MARK]):  # noqa: PTH208 -- names, not paths
            (folder / MARK).unlink(missing_ok=True)
            folder.rmdir()


def _is_ours(folder: Path, output: Path) -> bool:
    mark = folder / MARK
    try:
        if folder.is_symlink():
            return False
        if mark.exists() and mark.read_bytes() == _mark(output):
            return True
        drawn = folder.name.removeprefix(_prefix(output))[:_RANDOM]
        is_unmarked = not mark.exists() or _mark(output).startswith(mark.read_bytes())
        return folder.name == _name(output, drawn) and is_unmarked and set(folder.iterdir()) <= {mark}
    except OSError:
        return False


def _mark(output: Path) -> bytes:
    return b"surgery is writing " + os.fsencode(output.name) + b" here\n"


def _name(output: Path, drawn: str) -> str:
    """The name of a staging folder: it tells that it is one, even if it is empty."""
    digest = hashlib.sha256(_mark(output) + drawn.encode()).hexdigest()
    return f"{_prefix(output)}{drawn}{digest[:_RANDOM]}"


def _prefix(output: Path) -> str:
    name = os.fsencode(output.name)
    shown = output.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()[:16]
    return f".{shown}.surgery-"


def _way_out(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or write elsewhere"
    return "the source is untouched; write to another file system"
