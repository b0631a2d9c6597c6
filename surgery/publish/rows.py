"""Is a folder what `patch` writes, judged by its bytes alone?

The folder is surveyed as `patch` surveys a source, and asked what `patch` would do with it. A finished
checkpoint is one in which nothing is left to do: every file is one that would be carried over, every copy of
the denoiser is known, and every row that should be zero is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from surgery.checkpoint.edit.edits import Edit
from surgery.checkpoint.edit.hashing import hash_file
from surgery.checkpoint.edit.plan import FileTask, Plan, make_plan
from surgery.checkpoint.edit.side_files import may_be_kept
from surgery.checkpoint.edit.verify import overlooked_value_layers
from surgery.checkpoint.formats.safetensors_file import row_positions
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.roles import COPY, LEAVE_OUT, OTHER, PATCH
from surgery.checkpoint.survey.source import locate
from surgery.checkpoint.survey.survey import Checkpoint, survey
from surgery.errors import UsageError
from surgery.neurons import NeuronSet, shortened_rows
from surgery.publish.staged import ADDED, Staged


@dataclass(frozen=True, slots=True)
class Nothing:
    """A change that changes nothing, for manifests without zeroed rows."""

    def edits(self, copy: DenoiserCopy) -> Iterable[Edit]:
        """No edit."""
        return ()


def surveyed(staged: Staged, patched: Iterable[str]) -> Checkpoint:
    """The checkpoint in a folder, without what the publish step added or a download left there.

    Args:
        staged: the folder.
        patched: the files that `patch` wrote, by the manifest.

    Raises:
        UsageError: it is no checkpoint.
    """
    checkpoint = survey(locate(staged.checkpoint))
    besides = {*ADDED, ".gitattributes", ".cache/"} - set(patched)
    files = tuple(file for file in checkpoint.files if file.path not in besides)
    return replace(checkpoint, files=files)


def unfinished(checkpoint: Checkpoint, manifest: Mapping[str, Any], neurons: NeuronSet) -> Iterator[str]:
    """What is left to do in a checkpoint that `patch` is said to have written, one sentence each.

    Args:
        checkpoint: from `surveyed`.
        manifest: what is said of it.
        neurons: the rows that should be zero in every copy.
    """
    listed = {entry["path"]: entry for entry in manifest["files"]}
    try:
        plan = make_plan(
            checkpoint, neurons, keep=_kept(checkpoint, listed), follow_links=True, changes=[Nothing()]
        )
    except UsageError as error:
        yield f"patch would not take it: {error}"
        return
    carried = {task.file.path: task for task in plan.tasks}
    for file in plan.left_out:
        if file.path in listed:
            yield f"{file.path} is a file that patch never writes ({file.reason})"
    for path, task in carried.items():
        if task.file.action not in (PATCH, COPY):
            yield f"{path} is a pickle, which patch never writes"
        if path not in listed and task.file.weights is not None:
            yield f"{path} is an unverified weight file: the manifest does not know it"
    yield from overlooked_value_layers(plan)
    yield from _copies_differ(plan, manifest)
    for path, task in carried.items():
        yield from _rows_not_zero(task)
        yield from _other_value_layers(task, listed.get(path, {}))


def _other_value_layers(task: FileTask, entry: Mapping[str, Any]) -> Iterator[str]:
    """Of a large file that `patch` did not hash whole, its header and value layers are hashed."""
    wanted = entry.get("value_layers_sha256")
    if wanted is None or entry["sha256"] is not None:
        return
    if hash_file(task, False, threading.Event()).output_value_layers != wanted:
        yield f"{task.file.path}: its header or its value layers are not those that patch wrote"


def _kept(checkpoint: Checkpoint, listed: Mapping[str, Any]) -> list[str]:
    """The files that `--keep` carried over."""
    return [
        file.path
        for file in checkpoint.files
        if file.path in listed and file.action == LEAVE_OUT and file.role == OTHER and may_be_kept(file)
    ]


def _copies_differ(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    held = {(copy.naming, tuple(sorted(copy.files))): copy.label for copy in plan.copies}
    said = {(copy["naming"], tuple(sorted(copy["files"]))): copy["label"] for copy in manifest["copies"]}
    yield from (f"the manifest does not know the copy {held[key]}" for key in held.keys() - said.keys())
    yield from (f"the copy {said[key]} of the manifest is not there" for key in said.keys() - held.keys())


def _rows_not_zero(task: FileTask) -> Iterator[str]:
    weights = task.file.weights
    for edit in task.edits:
        assert weights is not None
        wrong = [
            row
            for row in edit.rows
            if any(any(weights.read(begin, end)) for begin, end in row_positions(edit.tensor, (row,)))
        ]
        if wrong:
            yield f"{task.file.path}: rows {shortened_rows(wrong)} of {edit.tensor.name} are not zero"
