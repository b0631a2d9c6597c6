"""With the source at hand: is a published folder the source with exactly this edit, and nothing else?

The proof is that of `surgery diff --plan`. It is strict about the manifest and about every file, so it is
given the folder as `patch` left it: without what the publish step added, for which `verify` answers itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.checkpoint.diff import compare_surveyed
from surgery.checkpoint.edit.edits import Change
from surgery.checkpoint.formats.opening import open_pickle
from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.source import FILE, Source, locate
from surgery.checkpoint.survey.survey import Checkpoint, survey
from surgery.errors import UsageError
from surgery.files import write_atomically
from surgery.neurons import NeuronSet
from surgery.publish.staged import CARD, Staged, manifest_bytes


def differences_from_source(
    source: str | Path,
    staged: Staged,
    checkpoint: Checkpoint,
    manifest: Mapping[str, Any],
    neurons: NeuronSet,
    *,
    revision: str | None = None,
    changes: Sequence[Change] = (),
    quiet: bool = True,
) -> tuple[str, ...]:
    """Everything in a folder that `patch` would not have made of the source, one sentence each.

    Args:
        source: the source checkpoint: a folder, a file or a cached Hub id.
        staged: the folder.
        checkpoint: its survey, without what was added (`surgery.publish.rows.surveyed`).
        manifest: as `patch` wrote it, without the section `published`.
        neurons: the plan.
        revision: of a Hub id.
        changes: what else was planned.
        quiet: no progress bar.

    Raises:
        UsageError: the source is no checkpoint, or is the folder itself.
    """
    found = locate(source, revision)
    if found.path.resolve() == staged.checkpoint.resolve():
        raise UsageError(source, "is the published checkpoint itself", "give the source that was patched")
    with tempfile.TemporaryDirectory() as folder:
        as_patched = _as_patched(checkpoint, staged, Path(folder), found, manifest)
        difference = compare_surveyed(
            survey(found, open_pickle), as_patched, plan=neurons, changes=changes, quiet=quiet
        )
    return difference.violations or ()


def _as_patched(
    checkpoint: Checkpoint, staged: Staged, folder: Path, source: Source, manifest: Mapping[str, Any]
) -> Checkpoint:
    """The survey as if `patch` had just finished: its manifest in `folder`, a kept card the source's."""
    place = folder / staged.checkpoint.name if staged.is_file else folder
    beside = f"{place.name}.{MANIFEST_NAME}" if staged.is_file else MANIFEST_NAME
    write_atomically(folder / beside, manifest_bytes(dict(manifest)))
    files = checkpoint.files
    if source.kind != FILE and (source.path / CARD).is_file():
        files = tuple(
            replace(file, location=source.path / CARD) if file.path == CARD else file for file in files
        )
    return replace(checkpoint, source=replace(checkpoint.source, path=place), files=files)
