"""Is a manifest the one that `patch` would write for A, B and this plan?

A manifest that vouches for other bytes is a lie, and one with anything beside its own fields is a place where
captions hide. Every field is made anew from the plan; only the versions of the libraries are taken as they
stand, if they look like versions.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.checkpoint.edit.hashing import HASHED_WHOLE, hash_file
from surgery.checkpoint.edit.manifest import make_manifest, manifest_text
from surgery.checkpoint.edit.plan import Plan
from surgery.checkpoint.edit.verify import planned_counts
from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.family import checkpoint_family
from surgery.checkpoint.survey.survey import SINGLE

LARGEST = 64 * 1024 * 1024  # rows of every layer, many times over
_FILE_NAME = re.compile(r"[\w.+-]{1,100}\.safetensors")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")
_LIBRARIES = {"surgery", "python", "torch"}
_FINGERPRINTS = {"matches", "differs", "not given"}


def manifest_violations(path: Path, plan: Plan) -> Iterator[str]:
    """What a manifest says that `patch` would not have said, one sentence each.

    Args:
        path: the manifest.
        plan: what `patch` would do with A.
    """
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        if not isinstance(manifest, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        yield f"{MANIFEST_NAME} cannot be read ({error})"
        return
    expected = _expected(_under_its_name(plan, manifest), manifest)
    versions = manifest.get("versions")
    if not _are_versions(versions):
        yield f"{MANIFEST_NAME}: its versions are not those of libraries"
    expected["versions"] = versions
    if expected["neurons"]["fingerprint"] in _FINGERPRINTS and isinstance(manifest.get("neurons"), dict):
        # the proof is not told which model the neurons were found in
        found_in = manifest["neurons"].get("fingerprint")
        if found_in in _FINGERPRINTS:
            expected["neurons"]["fingerprint"] = found_in
    wrong = [name for name in {**expected, **manifest} if manifest.get(name) != expected.get(name)]
    if wrong:
        yield f"{MANIFEST_NAME} is not the one that patch writes for this plan: {', '.join(sorted(wrong))}"
    elif text != manifest_text(expected):
        yield f"{MANIFEST_NAME} is not written as patch writes it"


def _under_its_name(plan: Plan, manifest: Mapping[str, Any]) -> Plan:
    """A single file may have been renamed, its manifest with it, which speaks of the earlier name."""
    entries = manifest.get("files")
    if plan.checkpoint.kind != SINGLE or not isinstance(entries, list) or len(entries) != 1:
        return plan
    name = entries[0].get("path") if isinstance(entries[0], dict) else None
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        return plan
    tasks = tuple(replace(task, file=replace(task.file, output=name)) for task in plan.tasks)
    return replace(plan, tasks=tasks)


def _expected(plan: Plan, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that `patch` writes; large files are hashed whole where the manifest at hand says so."""
    entries = manifest.get("files")
    hashed = {
        entry.get("path")
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and entry.get("sha256") is not None
    }
    whole = any(
        task.output_bytes > HASHED_WHOLE and task.file.output in hashed
        for task in plan.tasks
        if task.file.weights is not None
    )
    never = threading.Event()
    hashes = {task.file.path: hash_file(task, whole, never) for task in plan.tasks}
    return make_manifest(plan, checkpoint_family(plan.checkpoint), hashes, planned_counts(plan))


def _are_versions(versions: Any) -> bool:
    return (
        isinstance(versions, dict)
        and {"surgery", "python"} <= versions.keys() <= _LIBRARIES
        and all(isinstance(text, str) and _VERSION.fullmatch(text) for text in versions.values())
    )
