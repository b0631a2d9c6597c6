"""Renames that never overwrite what they were not meant to, on systems with and without renameat2.

A plain rename takes the place of whatever has the name by then. Linux can refuse instead (RENAME_NOREPLACE)
and can exchange two names in one step (RENAME_EXCHANGE); elsewhere, hard links and empty folders refuse too.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE, RENAME_EXCHANGE (linux/fs.h)
_CURRENT_FOLDER = -100  # AT_FDCWD
_NO_SUCH_FLAG = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
_NO_SYNC_OF_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}


def put(staged: Path, place: Path) -> None:
    """Rename a file or folder to a name that must be free.

    Raises:
        FileExistsError: it is not.
        OSError: the file system refuses.
    """
    if _rename(staged, place, _NO_REPLACE):
        return
    if staged.is_dir():
        place.mkdir()  # refuses what is there; then an empty folder, and no other, can be renamed over
        try:
            os.rename(staged, place)  # noqa: PTH104 -- Path.rename() would hide which of the two it is
        except OSError as error:
            with suppress(OSError):
                place.rmdir()
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from None
            raise
        return
    try:
        place.hardlink_to(staged)
        staged.unlink()
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without links: an empty file of our own holds the name
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        staged.replace(place)


def swap(staged: Path, place: Path, aside: Path) -> None:
    """Rename to a name that is taken; what had it ends up at `aside`, a free name.

    Where the system cannot exchange names, there is a moment without either. Whoever is killed in it has left
    the old one at `aside`.

    Raises:
        FileNotFoundError: nothing had the name.
        OSError: the file system refuses.
    """
    if _rename(staged, place, _EXCHANGE):
        staged.rename(aside)
        return
    place.rename(aside)
    try:
        put(staged, place)
    except OSError:
        put(aside, place)
        raise


def identity(path: Path) -> tuple[int, int]:
    """By which a file or folder is known again under another name."""
    status = path.lstat()
    return status.st_dev, status.st_ino


def sync_folder(folder: Path) -> None:
    """Make the folder's entries themselves durable, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def _rename(first: Path, second: Path, flag: int) -> bool:
    """Rename with a flag of renameat2; False where the system or the file system knows no such flag.

    Raises:
        OSError: the rename itself failed, as when the name is taken.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    old, new = os.fsencode(first), os.fsencode(second)
    if function(_CURRENT_FOLDER, old, _CURRENT_FOLDER, new, ctypes.c_uint(flag)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_SUCH_FLAG:
        return False
    raise OSError(number, os.strerror(number), str(second))
