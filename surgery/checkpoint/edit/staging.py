"""Write somewhere else first, publish by one rename: killed at any moment, the output is absent or whole.

1. A hidden sibling folder of the output is made (same file system, so that rename is atomic) and locked.
2. Everything is written into it and fsynced.
3. One rename puts it in place. Replacing (`--force`) exchanges old and new in one step where the kernel can
   (renameat2, Linux), and the old one is deleted afterwards.
4. On an error the sibling is removed. What a killed run left behind is unlocked, and removed by the next run.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.source import FILE, Source
from surgery.errors import SurgeryError, UsageError

_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE, RENAME_EXCHANGE (linux/fs.h)
_CURRENT_FOLDER = -100  # AT_FDCWD
SPARE_BYTES = 16 * 1024 * 1024  # for folders, manifest and the file system's own needs


def check_output(source: Source, output: Path, force: bool) -> Path:
    """Check that `output` may be written, and return its absolute path.

    Raises:
        UsageError: it exists (without `force`), equals, contains or lies in the source, is no checkpoint of
            ours (with `force`), or its parent folder is missing.
    """
    output = Path(os.path.abspath(output.expanduser()))  # noqa: PTH100 -- resolve() would follow the last link
    target, origin = output.resolve(), source.path.resolve()
    if target == origin or (output.exists() and output.samefile(source.path)):
        raise UsageError(output, "is the source itself", "write to another place")
    if origin in target.parents and source.kind != FILE:
        raise UsageError(output, "lies inside the source", "write to another place")
    if target in origin.parents:
        raise UsageError(output, "contains the source", "write to another place")
    if source.kind == FILE and output.suffix != ".safetensors":
        raise UsageError(
            output, "does not end in .safetensors", "a single file is written as safetensors only"
        )
    if any(part.name.startswith("models--") and (part / "snapshots").is_dir() for part in target.parents):
        raise UsageError(output, "lies inside the Hugging Face cache", "write to another place")
    if not output.parent.is_dir():
        raise UsageError(output.parent, "no such folder", "make it first")
    if not os.path.lexists(output):
        return output
    if not force:
        raise UsageError(output, "exists", "choose another name, or replace it with --force")
    is_ours = output.is_file() if source.kind == FILE else (output / MANIFEST_NAME).is_file()
    if output.is_symlink() or not is_ours:
        raise UsageError(
            output, "is not a checkpoint that surgery wrote", "remove it yourself, or write elsewhere"
        )
    return output


def check_not_holding(output: Path, locations: Iterable[Path]) -> None:
    """Refuse to replace an output that the source's own files lie in, by way of symbolic links.

    Raises:
        UsageError: naming the file.
    """
    target = output.resolve()
    for location in locations:
        origin = location.resolve()
        if target == origin or target in origin.parents:
            raise UsageError(
                output, f"holds a file of the source ({location.name})", "write to another place"
            )


def check_space(output: Path, needed: int) -> None:
    """Refuse before the first byte when the file system has less than `needed` bytes free.

    Raises:
        UsageError: with both numbers in gigabytes.
    """
    free = shutil.disk_usage(output.parent).free
    if free < needed + SPARE_BYTES:
        raise UsageError(
            output,
            f"needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there",
            "free some, or write elsewhere",
        )


@contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """A locked, hidden folder beside `output`, removed at the end whatever happens.

    Raises:
        UsageError: it cannot be made there.
        SurgeryError: writing failed (disk full, no permission, an operation that the file system lacks).
    """
    prefix = f".{output.name}.surgery-"
    _remove_leftovers(output.parent, prefix)
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UsageError(
            output.parent, f"cannot be written to ({error.strerror})", "write elsewhere"
        ) from None
    try:
        # Without locks on this file system, the leftovers of killed runs stay where they are.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    except OSError as error:
        raise SurgeryError(output, f"could not be written ({error})", _way_out(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def publish(staged: Path, output: Path) -> None:
    """Put a complete, fsynced file or folder in place by one rename; an old one ends up in the staging.

    Raises:
        OSError: the file system refuses.
    """
    if not os.path.lexists(output):
        if not _rename(staged, output, _NO_REPLACE):
            os.rename(staged, output)  # noqa: PTH104
    elif not _rename(staged, output, _EXCHANGE):
        if output.is_dir():  # a folder cannot be renamed over: absent for a moment, but never in part
            os.rename(output, staged.with_name(staged.name + ".old"))  # noqa: PTH104
            os.rename(staged, output)  # noqa: PTH104
        else:
            staged.replace(output)
    sync_folder(output.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries themselves durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(first: Path, second: Path, flag: int) -> bool:
    """Rename with a flag of renameat2; False where the system or the file system knows no such flag.

    Raises:
        OSError: the rename itself failed, as when the output appeared meanwhile.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    old, new = os.fsencode(first), os.fsencode(second)
    if function(_CURRENT_FOLDER, old, _CURRENT_FOLDER, new, ctypes.c_uint(flag)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _remove_leftovers(parent: Path, prefix: str) -> None:
    for folder in parent.glob("*"):
        if not folder.name.startswith(prefix) or not folder.is_dir() or folder.is_symlink():
            continue
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its run is alive
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _way_out(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or write elsewhere"
    return "the source is untouched; write to another file system"
