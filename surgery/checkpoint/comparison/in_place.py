"""The proof for checkpoints of one layout: is B, file by file and byte by byte, what `patch` would write?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from functools import partial

from surgery.checkpoint.comparison.manifest_claims import manifest_violations
from surgery.checkpoint.edit.plan import FileTask, Plan
from surgery.checkpoint.edit.side_files import is_cached
from surgery.checkpoint.edit.verify import side_deviation, weight_deviations
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import SafetensorsWeights, Weights
from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.roles import CheckpointFile
from surgery.checkpoint.survey.survey import SINGLE, Checkpoint
from surgery.errors import UsageError

# (weights of A, tensor name, weights of B, tensor name) that were found equal byte by byte
EqualTensors = Set[tuple[int, str, int, str]]


def in_place_violations(other: Checkpoint, plan: Plan, equal: EqualTensors) -> Iterator[str]:
    """Everything in B that `patch` would not have written from A, one sentence each.

    Args:
        other: B.
        plan: what `patch` would do with A.
        equal: tensors that need not be read again.
    """
    wanted = {task.file.output: task for task in plan.tasks}
    held = {file.path: file for file in other.files}
    for path, file in held.items():
        if path not in wanted and path != MANIFEST_NAME:
            reason = f", which could not be compared ({file.reason})" if file.reason else ""
            yield f"B holds {path}{reason}" if reason else f"B adds {path}"
    for path, task in wanted.items():
        if path not in held:
            yield f"B lacks {path}"
            continue
        for deviation in _file_deviations(held[path], task, equal):
            yield f"{path}: {deviation}"
    yield from linked_files(other)
    manifest = other.source.path / MANIFEST_NAME
    if other.kind == SINGLE:
        manifest = other.source.path.with_name(f"{other.source.path.name}.{MANIFEST_NAME}")
        if manifest.is_symlink():
            yield f"{manifest.name} is a link"
    if os.path.lexists(manifest):
        yield from manifest_violations(manifest, plan)


def linked_files(other: Checkpoint) -> Iterator[str]:
    """The files of B that are links: what is published then need not be what was compared.

    The links of the Hugging Face cache, from a snapshot to the blobs beside it, are its way of storing files.
    """
    if other.kind == SINGLE:
        return
    for file in other.files:
        place = other.source.path / file.path.rstrip("/")
        folders = [folder for folder in place.parents if folder != other.source.path]
        inside = [folder for folder in folders if other.source.path in folder.parents]
        if any(each.is_symlink() for each in [place, *inside]) and not is_cached(file, other.source.path):
            yield f"{file.path} is a link"


def _file_deviations(file: CheckpointFile, task: FileTask, equal: EqualTensors) -> Iterator[str]:
    if not file.location.is_file():
        yield "is not a regular file"
    elif task.file.weights is None:
        if deviation := side_deviation(file.location, task):
            yield deviation
    else:
        try:
            written = file.weights or SafetensorsWeights(file.location, file.path)
        except UsageError as error:
            yield error.cause
            return
        is_wanted = partial(_needs_reading, task, written, equal)
        yield from weight_deviations(written, task, is_wanted)


def _needs_reading(task: FileTask, written: Weights, equal: EqualTensors, tensor: Tensor) -> bool:
    """Whether a tensor is edited, or not known to be equal in A and B."""
    key = (id(task.file.weights), tensor.name, id(written), tensor.name)
    return key not in equal or bool(task.edits.within(tensor))
