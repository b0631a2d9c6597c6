"""Write one file of the output: bytes copied by the kernel, then the listed rows overwritten with zeros."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from surgery.checkpoint.edit.plan import FileTask
from surgery.checkpoint.formats.safetensors_file import row_positions
from surgery.checkpoint.survey.roles import CONVERT, INDEX
from surgery.checkpoint.survey.shards import converted_index
from surgery.errors import SurgeryError

_ZERO_STEP = 1024 * 1024

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
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if task.file.weights is not None:
            task.file.weights.write(descriptor, advance)
            _zero(descriptor, zero_ranges(task))
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


def zero_ranges(task: FileTask) -> list[tuple[int, int]]:
    """Every byte range of the output file that becomes zero, rising, neighbours joined."""
    ranges = sorted(place for edit in task.edits for place in row_positions(edit.tensor, edit.rows))
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _zero(descriptor: int, ranges: list[tuple[int, int]]) -> None:
    for start, end in ranges:
        while start < end:
            start += os.pwrite(descriptor, bytes(min(_ZERO_STEP, end - start)), start)


def side_content(task: FileTask) -> bytes:
    """What a file without weights becomes: the same bytes, or the converted shard index."""
    if task.file.role == INDEX and task.file.action == CONVERT:
        return converted_index(task.file)
    return task.file.location.read_bytes()


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
