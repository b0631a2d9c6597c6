"""sha256 of what is read and written, computed beside the copy, never instead of it.

A second thread reads the source and hashes, in one pass, what a file held and what it holds after the edit,
while the kernel copies. Hashing every byte of a large checkpoint can take longer than copying it, so by
default a large file is represented by what matters here: its header and its value layers. Small files are
always hashed whole.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from surgery.checkpoint.edit.edits import ZEROS
from surgery.checkpoint.edit.plan import FileTask
from surgery.checkpoint.edit.writing import side_content
from surgery.checkpoint.survey.roles import CONVERT

HASHED_WHOLE = 64 * 1024 * 1024  # files up to this size are always hashed whole
_STEP = 4 * 1024 * 1024

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Hashes:
    """sha256, in hexadecimal, of a source file and of the file written from it.

    Attributes:
        source, output: of the whole files; None where only the value layers were hashed.
        source_value_layers, output_value_layers: of the header followed by the bytes of the value layers, in
            the order of the file; None where the file has none.
    """

    source: str | None
    output: str | None
    source_value_layers: str | None = None
    output_value_layers: str | None = None


def hash_file(task: FileTask, whole: bool, stop: threading.Event) -> Hashes:
    """Hash one file of the plan, from its source and the edits.

    Args:
        task: the file.
        whole: hash every byte, however large the file is.
        stop: set when the result is no longer wanted; the hashes are then of no use.

    Raises:
        OSError: the source cannot be read.
    """
    weights = task.file.weights
    if weights is None:
        output = hashlib.sha256(side_content(task)).hexdigest()
        return Hashes(_sha256_of_source(task), output)
    spans = [(0, weights.header.data_start)] + [(tensor.begin, tensor.end) for tensor in task.value_tensors]
    layers = _sha256_of_spans(task, spans, stop) if task.value_tensors else (None, None)
    # trained tensors lie outside the value layers: only the hash of the whole file vouches for them
    whole = whole or any(edit.content is not ZEROS for edit in task.edits)
    if not whole and task.output_bytes > HASHED_WHOLE:
        return Hashes(None, None, *layers)
    source, output = _sha256_of_spans(task, [(0, weights.header.file_bytes)], stop)
    if task.file.action == CONVERT:
        source = _sha256_of_source(task)  # of the pickle itself, not of its safetensors form
    return Hashes(source, output, *layers)


def _sha256_of_spans(task: FileTask, spans: Iterable[Span], stop: threading.Event) -> tuple[str, str]:
    """sha256 of byte ranges of a weight file before and after the edit."""
    assert task.file.weights is not None
    before, after = hashlib.sha256(), None  # one hash serves both until the first edited row
    for begin, end in spans:
        for position in range(begin, end, _STEP):
            if stop.is_set():
                break
            chunk = task.file.weights.read(position, min(position + _STEP, end))
            expected = task.edits.expected(chunk, position)
            if expected is not chunk and after is None:
                after = before.copy()
            before.update(chunk)
            if after is not None:
                after.update(expected)
    return before.hexdigest(), (after or before).hexdigest()


def _sha256_of_source(task: FileTask) -> str:
    with task.file.location.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
