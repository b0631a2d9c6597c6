"""Copy a file inside the kernel: no byte of it passes through this process.

`os.copy_file_range` first (which also shares blocks on file systems that can), `os.sendfile` where that is
not possible, plain reads and writes where neither is. Memory does not grow with the file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STEP = (
    64 * 1024 * 1024
)  # bytes per call: small enough for a moving progress bar, large enough to cost nothing
_PLAIN_STEP = 1024 * 1024
_NOT_POSSIBLE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


def copy_into(source: Path, descriptor: int, advance: Callable[[int], None]) -> int:
    """Copy the whole of `source` into the open, empty file `descriptor`.

    Args:
        source: the file to copy; a symbolic link is followed.
        descriptor: an empty file opened for writing.
        advance: called with the number of bytes of each step.

    Returns:
        the number of bytes copied.

    Raises:
        OSError: the file cannot be read, or the disk is full.
    """
    total = 0
    methods = [_copy_file_range, _sendfile, _read_write]
    with source.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while total < size:
            try:
                step = methods[0](file.fileno(), descriptor)
            except (OSError, AttributeError) as error:
                # Some kernels and file systems lack a method; the next one goes on where this one stopped.
                if isinstance(error, OSError) and (error.errno not in _NOT_POSSIBLE or len(methods) == 1):
                    raise
                methods.pop(0)
                continue
            if step == 0:
                if len(methods) == 1:
                    raise OSError(errno.EIO, "became shorter while it was copied", str(source))
                methods.pop(0)  # some file systems answer 0 where they mean "not here"
                continue
            _start_writeback(descriptor, total, step)
            total += step
            advance(step)
    return total


def _start_writeback(descriptor: int, position: int, length: int) -> None:
    """Have the kernel write these bytes to the disk now: the fsync at the end finds little left to do."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # advice only
            os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_DONTNEED)


def _copy_file_range(source: int, destination: int) -> int:
    return os.copy_file_range(source, destination, STEP)


def _sendfile(source: int, destination: int) -> int:
    return os.sendfile(destination, source, None, STEP)


def _read_write(source: int, destination: int) -> int:
    data = os.read(source, _PLAIN_STEP)
    written = 0
    while written < len(data):
        written += os.write(destination, data[written:])
    return len(data)
