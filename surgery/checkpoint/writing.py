"""Write one file of the output: bytes copied by the kernel, then the listed rows overwritten with zeros.

sha256 needs every byte once more, so a second thread reads the source and hashes what the file held and
what it now holds in one pass, while the kernel copies; it adds no time as long as hashing is the faster of
the two.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.plan import FileTask
from surgery.checkpoint.roles import CONVERT, INDEX
from surgery.checkpoint.safetensors_file import row_positions
from surgery.checkpoint.shards import converted_index
from surgery.checkpoint.weights import Weights
from surgery.errors import SurgeryError

_HASH_STEP = 4 * 1024 * 1024
_ZERO_STEP = 1024 * 1024

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Hashes:
    """sha256, in hexadecimal, of a source file and of the file written from it."""

    source: str
    output: str


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
            content = _side_content(task)
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


def hash_file(task: FileTask, stop: threading.Event) -> Hashes:
    """sha256 of the source file and of the output file, computed from the source and the plan in one pass.

    Args:
        task: the file.
        stop: set when the result is no longer wanted; the hashes are then of no use.
    """
    if task.file.weights is None or task.file.action == CONVERT:
        source = _sha256_of_file(task.file.location)
        if task.file.weights is None:
            return Hashes(source, hashlib.sha256(_side_content(task)).hexdigest())
        return Hashes(source, _sha256_of_weights(task.file.weights, zero_ranges(task)))
    before, after = hashlib.sha256(), None
    ranges = zero_ranges(task)
    position = 0
    with task.file.location.open("rb", buffering=0) as file:
        buffer = bytearray(_HASH_STEP)
        while (length := file.readinto(buffer)) and not stop.is_set():
            chunk = memoryview(buffer)[:length]
            is_edited = any(start < position + length and end > position for start, end in ranges)
            if is_edited and after is None:
                after = before.copy()  # one hash serves both until the first zeroed row
            before.update(chunk)
            if after is not None:
                _blank(chunk, position, ranges)
                after.update(chunk)
            position += length
    return Hashes(before.hexdigest(), (after or before).hexdigest())


def _sha256_of_weights(weights: Weights, ranges: list[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    for position in range(0, weights.header.file_bytes, _HASH_STEP):
        chunk = bytearray(weights.read(position, min(position + _HASH_STEP, weights.header.file_bytes)))
        _blank(memoryview(chunk), position, ranges)
        digest.update(chunk)
    return digest.hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blank(chunk: memoryview, position: int, ranges: list[tuple[int, int]]) -> None:
    for start, end in ranges:
        first, last = max(start - position, 0), min(end - position, len(chunk))
        if first < last:
            chunk[first:last] = bytes(last - first)


def _zero(descriptor: int, ranges: list[tuple[int, int]]) -> None:
    for start, end in ranges:
        while start < end:
            start += os.pwrite(descriptor, bytes(min(_ZERO_STEP, end - start)), start)


def _side_content(task: FileTask) -> bytes:
    if task.file.role == INDEX and task.file.action == CONVERT:
        return converted_index(task.file)
    return task.file.location.read_bytes()


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
