"""Compare two checkpoints file by file: what is no tensor, and what the headers of weight files say."""

from __future__ import annotations

from surgery.checkpoint.comparison.difference import ADDED, CHANGED, REMOVED, FileDifference
from surgery.checkpoint.formats.same_bytes import same_bytes
from surgery.checkpoint.formats.weights import Progress, SafetensorsWeights
from surgery.checkpoint.survey.roles import CONVERT, INDEX, CheckpointFile
from surgery.checkpoint.survey.shards import converted_index
from surgery.checkpoint.survey.survey import SINGLE, Checkpoint


def compare_files(one: Checkpoint, other: Checkpoint, advance: Progress) -> list[FileDifference]:
    """Every file that differs as a file: missing on one side, other bytes, another header of its weights.

    Args:
        one, other: two folders, or two single files.
        advance: called with numbers of bytes compared.
    """
    if one.kind == SINGLE and other.kind == SINGLE:
        (file,), (counterpart,) = one.files, other.files
        note = _header_difference(file, counterpart)
        return [FileDifference(file.path, CHANGED, note)] if note else []
    files_a = {file.path: file for file in one.files}
    files_b = {file.path: file for file in other.files}
    found = []
    for path in sorted(files_a.keys() | files_b.keys()):
        a, b = files_a.get(path), files_b.get(path)
        if b is None:
            assert a is not None
            found.append(FileDifference(path, REMOVED, a.reason or a.role))
        elif a is None:
            found.append(FileDifference(path, ADDED, b.reason or b.role))
        elif a.weights is not None and b.weights is not None:
            if note := _header_difference(a, b):
                found.append(FileDifference(path, CHANGED, note))
        elif a.weights is None and b.weights is None:
            if path.endswith("/"):
                found.append(FileDifference(path, CHANGED, "a folder that was not looked into"))
            elif a.location.is_file() and b.location.is_file():
                if not same_bytes(a.location, b.location, advance) and not _is_converted(a, b):
                    found.append(FileDifference(path, CHANGED, a.role))
            else:
                found.append(FileDifference(path, CHANGED, "not a regular file"))
    return found


def _is_converted(a: CheckpointFile, b: CheckpointFile) -> bool:
    """Whether b is the index a after the pickles that it names became safetensors (patch writes it so)."""
    is_index = a.role == INDEX and a.action == CONVERT and b.role == INDEX
    return is_index and b.location.read_bytes() == converted_index(a)


def _header_difference(a: CheckpointFile, b: CheckpointFile) -> str:
    """What two weight files' headers say differently beyond their tensors; "" for none, and for a pickle."""
    if not isinstance(a.weights, SafetensorsWeights) or not isinstance(b.weights, SafetensorsWeights):
        return ""
    one, other = a.weights.header, b.weights.header
    if one.metadata != other.metadata:
        return "its metadata differs"
    if list(one.tensors) != list(other.tensors):
        return "its tensors stand in another order" if one.tensors.keys() == other.tensors.keys() else ""
    spans = [[(each.begin, each.end) for each in header.tensors.values()] for header in (one, other)]
    return "its header is written differently" if spans[0] != spans[1] else ""
