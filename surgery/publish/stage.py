"""Write down in the manifest what was measured, and the hash of every file that is to be published.

`patch` writes the manifest of what it did; here it gets one more section, `published`, and nothing else in it
changes. It is rewritten whole or not at all. Only files that `patch` wrote, and the card, are ever vouched
for: whoever puts another file into the folder is told so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from surgery.errors import GateError, UsageError
from surgery.files import write_atomically
from surgery.publish.evidence import evidence_of, gate_passed, read_audit
from surgery.publish.method import audit_method, check_same_neurons, localization_method
from surgery.publish.staged import (
    ADDED,
    CARD,
    SIGNATURE,
    Staged,
    hashed,
    listed,
    manifest_bytes,
    open_staged,
    read_manifest,
)

PUBLISHED = "published"  # the section of the manifest
_LONGEST_RISK = 1000
_LEFT_BEHIND = re.compile(r"(README\.md|[\w.+-]*surgery-manifest\.json)\.\d+\.partial")


def record_audit(
    out: str | Path,
    audit: str | Path | Mapping[str, Any] | None,
    *,
    neurons: str | Path | None = None,
    accept_risk: str | None = None,
) -> dict[str, Any]:
    """Write an audit's verdict, counts and salted ids, and the hash of every file, into the manifest.

    The verdict is recorded whatever it is: `upload` asks for `removed`, or for an accepted risk.

    Args:
        out: the folder that `patch` wrote.
        audit: `audit.json`, or its document; None says that no audit was made.
        neurons: the `neurons.json` that was patched: its settings, seeds, thresholds and versions are
            recorded, and nothing else of it.
        accept_risk: why this is published although the audit's gate is shut; it is published too.

    Returns:
        the new manifest.

    Raises:
        UsageError: `out` is no such folder, or the audit is none.
        GateError: the audit holds private matter or was made on other weights, the neurons are others, the
            folder holds a file that is not `patch`'s, or one that `patch` wrote is another now. Nothing was
            written.
    """
    staged = _whole(out)
    manifest = read_manifest(staged)
    files = _hashed_files(staged, manifest, {})
    check_same_neurons(neurons, manifest)
    summary: dict[str, Any] | None = None
    prompts: list[dict[str, Any]] = []
    document: dict[str, Any] | None = None
    if audit is not None:
        document, digest = read_audit(audit)
        summary, prompts = evidence_of(document, digest, files)
    manifest[PUBLISHED] = {
        "surgery": version("surgery"),
        "method": {"localization": localization_method(neurons), "audit": audit_method(document)},
        "audit": summary,
        "prompts": prompts,
        "gate": {"passed": gate_passed(summary), "accepted_risk": _risk(accept_risk)},
        "files": files,
    }
    write_manifest(staged, manifest)
    return manifest


def seal(out: str | Path, *, changed: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Hash the published files again into the manifest, after the card was written or edited.

    Args:
        out: the folder.
        changed: the files to read; None reads all.

    Returns:
        the new manifest.

    Raises:
        UsageError, GateError: as for `record_audit`; also where no audit was recorded.
    """
    staged = _whole(out)
    manifest = read_manifest(staged)
    section = published_section(manifest)
    known = {} if changed is None else {entry["path"]: entry for entry in section["files"]}
    for path in changed or ():
        known.pop(path, None)
    section["files"] = _hashed_files(staged, manifest, known)
    write_manifest(staged, manifest)
    return manifest


def accepting(manifest: Mapping[str, Any], accept_risk: str) -> dict[str, Any]:
    """The same manifest with an accepted risk; nothing is written.

    Raises:
        UsageError: no reason was given.
    """
    section = dict(published_section(manifest))
    section["gate"] = {**section["gate"], "accepted_risk": _risk(accept_risk)}
    return {**manifest, PUBLISHED: section}


def published_section(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The section `published` of a manifest.

    Raises:
        UsageError: it has none.
    """
    section = manifest.get(PUBLISHED)
    if not isinstance(section, dict) or not isinstance(section.get("gate"), dict):
        cause = "nothing was recorded for publishing"
        raise UsageError("manifest", cause, "run `surgery card OUT --audit audit.json` first")
    return section


def write_manifest(staged: Staged, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest, whole or not at all."""
    write_atomically(staged.manifest_path, manifest_bytes(dict(manifest)))


def patched_paths(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Path -> entry of every file that `patch` wrote, by the manifest.

    Raises:
        UsageError: the manifest lists its files in no way that can be read.
    """
    entries = manifest.get("files")
    if not isinstance(entries, list) or not all(
        isinstance(each, dict) and isinstance(each.get("path"), str) for each in entries
    ):
        raise UsageError("manifest", "does not list its files", "run `surgery patch` again")
    return {each["path"]: each for each in entries}


def _whole(out: str | Path) -> Staged:
    staged = open_staged(out)
    staged.check_whole()
    for path in staged.root.iterdir():
        if _LEFT_BEHIND.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()  # of a run that was killed while it wrote
    return staged


def _hashed_files(
    staged: Staged, manifest: Mapping[str, Any], known: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The entries of all published files but the manifest and the signature; `known` ones are not read."""
    found, obstacles = listed(staged)
    problems = list(obstacles.values())
    patched = patched_paths(manifest)
    allowed = {*patched, *ADDED, staged.manifest_path.name}
    problems += [f"{path} is none of the files that patch wrote" for path in found if path not in allowed]
    problems += [f"{path} is missing" for path in patched if path not in found]
    if problems:
        raise GateError(staged.root, "; ".join(problems[:5]), "publish what patch wrote, and nothing else")
    entries = []
    for path, location in found.items():
        if path in (staged.manifest_path.name, SIGNATURE):
            continue
        entry = known.get(path) or hashed(path, location).as_json()
        wanted = patched.get(path, {}).get("sha256")
        if wanted is not None and wanted != entry["sha256"] and path != CARD:
            raise GateError(path, "is not the file that patch wrote", "patch again")
        entries.append(entry)
    return entries


def _risk(reason: str | None) -> str | None:
    if reason is None:
        return None
    reason = " ".join(reason.split())
    if not reason or len(reason) > _LONGEST_RISK:
        cause = "is empty" if not reason else f"is longer than {_LONGEST_RISK} characters"
        raise UsageError("--accept-risk", cause, "say in a sentence why this is published all the same")
    return reason
