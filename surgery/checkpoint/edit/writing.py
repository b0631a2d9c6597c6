"""Write one file of the output: bytes copied by the kernel, then the edited ranges written over."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from surgery.checkpoint.edit.plan import FileTask
from surgery.checkpoint.survey.roles import CONVERT, INDEX
from surgery.checkpoint.survey.shards import converted_index
from surgery.errors import SurgeryError

_STEP = 1024 * 1024  # bytes written over at once

Progress = Callable[[int], None]


def write_file(task: FileTask, destination: Path, advance: Progress) -> None:
    """Write one file of the plan and fsync it.

    Args:
        task: what to write.
        destination: a path that does not exist; its folder does.
        advance: called with numbers of bytes, for a progress bar.

    Raises:
        OSError: reading or writing failed.
        SurgeryError: the source changed meanwhile.
    """
    before = _identity(task.file.location)
    # Nobody else may read the output who could not read the source; it is its writer's own.
    mode = task.file.location.stat().st_mode & 0o777 | 0o600
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        if task.file.weights is not None:
            task.file.weights.write(descriptor, advance)
            _write_edits(descriptor, task)
        else:
            content = side_content(task)
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
            advance(len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if _identity(task.file.location) != before:
        raise SurgeryError(task.file.path, "changed while it was read", "run again when nothing writes to it")


def _write_edits(descriptor: int, task: FileTask) -> None:
    assert task.file.weights is not None
    for start, end in task.edits.ranges:
        while start < end:
            data = task.file.weights.read(start, min(start + _STEP, end))
            start += os.pwrite(descriptor, task.edits.expected(data, start), start)


def side_content(task: FileTask) -> bytes:
    """What a file without weights becomes: the same bytes, or the converted shard index."""
    if task.file.role == INDEX and task.file.action == CONVERT:
        return converted_index(task.file)
    return task.file.location.read_bytes()


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
