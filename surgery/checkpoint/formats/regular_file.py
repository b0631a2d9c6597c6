"""Open what is a regular file, and nothing that could block, never end, or fill the memory.

A `config.json` can be a pipe, a terminal or a device; opening one can wait for ever and reading one need not
end. The type is therefore asked of the opened descriptor, so that nothing can be put in its place in between,
and the size is known before the first byte is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from surgery.errors import UsageError


def open_regular(path: Path, shown: str) -> BinaryIO:
    """Open a regular file for reading; a symbolic link is followed.

    Args:
        path: the file.
        shown: how messages call it.

    Raises:
        UsageError: it is missing, cannot be read, or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise UsageError(shown, f"cannot be read ({cause})", "check the path and its permissions") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(shown, "is not a regular file", "put the true file in its place")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, shown: str, limit: int) -> bytes:
    """The whole content of a regular file of at most `limit` bytes.

    Raises:
        UsageError: as in `open_regular`, or it is larger.
    """
    with open_regular(path, shown) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            cause = f"takes {size} bytes, more than the {limit} that such a file may take"
            raise UsageError(shown, cause, "restore the true file")
        try:
            return file.read(size)
        except OSError as error:
            raise UsageError(shown, f"cannot be read ({error.strerror})", "check the disk") from None
