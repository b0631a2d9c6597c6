"""Patch: a source checkpoint and a set of neurons in, a new checkpoint with those rows zeroed for good out.

1. Survey the source: every file, every copy of the denoiser (`surgery.checkpoint.survey.survey`).
2. Plan, or refuse, before the first byte is written (`surgery.checkpoint.edit.plan`).
3. Write into a hidden sibling folder: kernel copies, then the new content over the edited rows
   (`surgery.checkpoint.edit.writing`).
4. Verify what was written, row by row (`surgery.checkpoint.edit.verify`).
5. Add the manifest, fsync, publish by one rename (`surgery.checkpoint.edit.publishing`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.edit.destination import check_free, check_not_holding, check_output, check_space
from surgery.checkpoint.edit.edit_file import GivenEdit, load_edit
from surgery.checkpoint.edit.edits import Change
from surgery.checkpoint.edit.hashing import Hashes, hash_file
from surgery.checkpoint.edit.hidden_copies import check_no_hidden_copy
from surgery.checkpoint.edit.manifest import make_manifest, manifest_text
from surgery.checkpoint.edit.plan import Plan, make_plan
from surgery.checkpoint.edit.publishing import Staging
from surgery.checkpoint.edit.renames import sync_folder
from surgery.checkpoint.edit.staging import remove_leftovers, staging_folder
from surgery.checkpoint.edit.verify import verify_output
from surgery.checkpoint.edit.writing import write_file
from surgery.checkpoint.formats.opening import open_pickle
from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.family import checkpoint_family
from surgery.checkpoint.survey.roles import CheckpointFile
from surgery.checkpoint.survey.source import FILE, locate
from surgery.checkpoint.survey.survey import survey
from surgery.progress import byte_progress


@dataclass(frozen=True, slots=True)
class PatchResult:
    """What `patch` did.

    Attributes:
        output: the folder or file written.
        manifest_path: its manifest: inside the folder, or beside the file.
        manifest: the manifest's content (`surgery.checkpoint.edit.manifest`).
        copies: the denoiser copies patched.
        left_out: the source's files that the output lacks, each with its reason.
        text_paths: how text goes round the value layers of this denoiser, one sentence each.
        warnings: what the user should know.
        bytes: the size of the output.
        seconds: wall time.
    """

    output: Path
    manifest_path: Path
    manifest: Mapping[str, Any]
    copies: tuple[DenoiserCopy, ...]
    left_out: tuple[CheckpointFile, ...]
    text_paths: tuple[str, ...]
    warnings: tuple[str, ...]
    bytes: int
    seconds: float


def patch(
    source: str | Path,
    neurons: GivenEdit,
    output: str | Path,
    *,
    revision: str | None = None,
    force: bool = False,
    any_model: bool = False,
    keep: Sequence[str] = (),
    follow_links: bool = False,
    strict: bool = False,
    sha256: bool = False,
    changes: Sequence[Change] = (),
    quiet: bool = True,
) -> PatchResult:
    """Write a new checkpoint in which the given neurons' rows are zero bytes, in every copy it holds.

    Args:
        source: a diffusers folder, a single file (.safetensors, or a .bin/.ckpt pickle), or a Hub id in the
            cache.
        neurons: a `NeuronSet`, layer name -> rows, or the path of a `neurons.json` (whose fingerprint is
            checked); or the folder of an edit that `surgery.harden` made, whose trained tensors take the
            place of the denoiser's in every copy as well.
        output: the folder, or the `.safetensors` file, to write; its parent exists.
        revision: for a Hub id.
        force: replace an output that an earlier patch wrote.
        any_model: do not refuse neurons whose fingerprint is another model's.
        keep: further text files or pictures of the source to carry over.
        follow_links: carry over text files that symbolic links bring in from outside the checkpoint.
        strict: refuse a denoiser that text also enters by a way that zeroed rows cannot close.
        sha256: hash every byte of source and output for the manifest, not only files up to 64 MB and, of
            larger ones, the header and the value layers.
        changes: what else is to become of the denoiser (`surgery.checkpoint.edit.edits.Change`).
        quiet: no progress bar.

    Returns:
        what was done; the manifest is in the output too.

    Raises:
        UsageError: a bad argument, or a checkpoint that cannot be patched safely; nothing was written.
        GateError: what was written is not what was planned; it was removed.
        SurgeryError: writing failed; nothing was left behind.
    """
    started = time.perf_counter()
    edit = load_edit(neurons)
    found = locate(source, revision)
    is_file = found.kind == FILE
    destination = check_output(found, Path(output))
    remove_leftovers(destination)  # may bring back what a killed run had put aside: before looking
    check_free(destination, is_file, force)
    checkpoint = survey(found, open_pickle)
    check_not_holding(destination, [file.location for file in checkpoint.files])
    plan = make_plan(
        checkpoint,
        edit.neurons,
        fingerprint=edit.fingerprint,
        any_model=any_model,
        keep=keep,
        follow_links=follow_links,
        strict=strict,
        output_name=destination.name,
        changes=(*edit.changes, *changes),
    )
    check_space(destination, plan.total_bytes)
    family = checkpoint_family(plan.checkpoint)
    with staging_folder(destination, is_file, force) as staging:
        root = staging.content
        root.mkdir(0o700 if is_file else _folder_mode(found.path))
        hashes = _write_files(plan, root, sha256, quiet)
        manifest = make_manifest(plan, family, hashes, verify_output(root, plan))
        manifest_path = _finish(plan, staging, manifest)
    return PatchResult(
        destination,
        manifest_path,
        manifest,
        plan.copies,
        plan.left_out,
        plan.text_paths,
        plan.warnings,
        plan.total_bytes,
        time.perf_counter() - started,
    )


def _write_files(plan: Plan, root: Path, sha256: bool, quiet: bool) -> dict[str, Hashes]:
    """Write every planned file below `root`, hashing in a second thread; returns source path -> hashes."""
    pending: dict[str, Future[Hashes]] = {}
    stop = threading.Event()
    with (
        ThreadPoolExecutor(max_workers=1) as hasher,
        byte_progress(plan.total_bytes, "patch", quiet) as advance,
    ):
        try:
            search = hasher.submit(check_no_hidden_copy, plan, stop)
            pending = {task.file.path: hasher.submit(hash_file, task, sha256, stop) for task in plan.tasks}
            for task in plan.tasks:
                destination = root / task.file.output
                destination.parent.mkdir(_folder_mode(task.file.location.parent), exist_ok=True)
                write_file(task, destination, advance)
                if search.done():
                    search.result()  # a second copy was found: no need to write on
            search.result()
            return {path: future.result() for path, future in pending.items()}
        except BaseException:
            stop.set()
            hasher.shutdown(wait=False, cancel_futures=True)
            raise


def _finish(plan: Plan, staging: Staging, manifest: Mapping[str, Any]) -> Path:
    """Write the manifest, make everything durable, publish; returns the manifest's path."""
    mode = next(task.file.location.stat().st_mode for task in plan.tasks if task.file.weights is not None)
    path = staging.content / MANIFEST_NAME
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o666 | 0o600)
    # A name that is not UTF-8 becomes an escape, which JSON reads back as the same name.
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(manifest_text(manifest))
        file.flush()
        os.fsync(file.fileno())
    for folder, _, _ in os.walk(staging.content):
        sync_folder(Path(folder))
    return staging.publish()


def _folder_mode(source: Path) -> int:
    """Who may enter the folder of an output: nobody who could not enter the source's."""
    return source.stat().st_mode & 0o777 | 0o700
