"""Patch: the rows zeroed, and an edit's tensors written, in a new checkpoint.

The output is replaced only where an earlier run of the same working folder wrote it, and `patch` itself
refuses to replace what holds no manifest of surgery.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from surgery.applying.hashes import digest_of, files_below
from surgery.applying.run import Run
from surgery.applying.steps.step import Cost, Step
from surgery.checkpoint.edit.destination import check_output, check_space
from surgery.checkpoint.formats.json_text import read_small_json
from surgery.checkpoint.patch import PatchResult, patch
from surgery.checkpoint.survey.roles import LEAVE_OUT
from surgery.checkpoint.survey.source import FILE
from surgery.errors import SurgeryError, UsageError
from surgery.publish.stage import PUBLISHED
from surgery.publish.staged import ADDED, LARGEST_MANIFEST
from surgery.versions import library_versions

_MANIFEST = "the manifest, without what was added"


class Patch(Step):
    """The one step that writes weights."""

    name = "patch"

    def inputs(self, run: Run) -> dict[str, Any]:
        section = vars(run.request.recipe.patch)
        return {
            "model": run.model_id(),
            "neurons": run.plan_id(),
            "options": {**section, "keep": list(section["keep"])},
            "versions": library_versions(("surgery",)),
        }

    def left(self, run: Run) -> dict[str, str | None]:
        return checkpoint_id(run)

    def do(self, run: Run) -> dict[str, Any]:
        request = run.request
        check_free(run)
        if not run.ledger.claimed:
            run.ledger.claim()
        if request.located.kind == FILE:
            request.output.mkdir(exist_ok=True)
        try:
            done = self._patched(run)
        except SurgeryError:
            if request.located.kind == FILE:
                with suppress(OSError):  # it holds something: an earlier output
                    request.output.rmdir()
            raise
        return {
            "rows": done.manifest["neurons"]["count"],
            "tensors": done.manifest.get("trained", {}).get("count", 0),
            "copies": len(done.copies),
            "bytes": done.bytes,
            "left_out": len(done.left_out),
            "warnings": list(done.warnings),
        }

    def _patched(self, run: Run) -> PatchResult:
        request, options = run.request, run.request.recipe.patch
        return patch(
            request.located.path,
            run.plan,
            request.checkpoint,
            force=os.path.lexists(request.checkpoint) or os.path.lexists(request.manifest),
            any_model=options.any_model,
            keep=options.keep,
            follow_links=options.follow_links,
            strict=options.strict,
            sha256=options.sha256,
            quiet=request.quiet,
        )

    def cost(self, run: Run) -> Cost:
        from surgery.checkpoint.inspect import inspect_checkpoint

        found = inspect_checkpoint(run.request.located.path)
        if found.refusal is not None:
            raise UsageError(run.request.model, f"cannot be patched: {found.refusal}", "give another model")
        carried = [file for file in found.files if file.action != LEAVE_OUT]
        note = f"{found.family}, {len(carried)} files, {len(found.files) - len(carried)} left out"
        return Cost(bytes=sum(file.bytes for file in carried), note=note)

    def says(self, facts: Mapping[str, Any]) -> str:
        trained = f", {facts['tensors']} tensors trained" if facts["tensors"] else ""
        copies = f"{facts['copies']} cop{'y' if facts['copies'] == 1 else 'ies'}"
        return f"{facts['rows']} rows zeroed in {copies}{trained}; {facts['bytes'] / 1e9:.3f} GB"


def check_free(run: Run) -> None:
    """Refuse an output that is somebody else's.

    Raises:
        UsageError: something is there that no run of this working folder wrote.
    """
    output = run.request.output
    if os.path.lexists(output) and not run.ledger.claimed:
        raise UsageError(
            output, f"exists, and not by a recipe with the working folder {run.work}", "choose a new output"
        )


def check_place(run: Run) -> None:
    """Refuse now the output that `patch` would refuse after the search.

    Raises:
        UsageError: it may not lie there: in the source, say.
    """
    if run.request.located.kind != FILE:
        check_output(run.request.located, run.request.output)


def check_room(run: Run) -> None:
    """Refuse now what `patch` would refuse after the search.

    Raises:
        UsageError: the source cannot be patched, or the disk is too full.
    """
    entry = run.ledger.entry(Patch.name)
    if entry is None or not entry.done:
        check_space(run.request.output, Patch().cost(run).bytes)


def checkpoint_id(run: Run) -> dict[str, str | None]:
    """Path -> sha256 of every file that `patch` wrote, and the digest of its manifest as it wrote it.

    The manifest says which files those are; where it cannot be read, that shows in what is returned.
    """
    request = run.request
    manifest = manifest_as_patched(request.manifest)
    if manifest is None:
        return {_MANIFEST: None}
    paths = [entry["path"] for entry in manifest["files"] if entry["path"] not in ADDED]
    found = {path: run.ledger.hashes.of(request.output / path) for path in paths}
    return {**found, _MANIFEST: digest_of(manifest)}


def manifest_as_patched(path: Path) -> dict[str, Any] | None:
    """A manifest without the section that the publish step adds; None where it is none."""
    try:
        manifest = read_small_json(path, path.name, LARGEST_MANIFEST, "patch again")
    except (SurgeryError, OSError):
        return None
    files = manifest.get("files")
    if not isinstance(files, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in files
    ):
        return None
    return {name: value for name, value in manifest.items() if name != PUBLISHED}


def is_staged(run: Run) -> bool:
    """Whether a card and an audit were added to the output already."""
    path = run.request.manifest
    try:
        return PUBLISHED in read_small_json(path, path.name, LARGEST_MANIFEST, "patch again")
    except (SurgeryError, OSError):
        return False


def output_id(run: Run) -> dict[str, str | None]:
    """Path -> sha256 of every file of the output."""
    output = run.request.output
    return run.ledger.hashes.of_folder(output, files_below(output))
