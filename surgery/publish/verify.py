"""Verify: is a folder what its manifest says, to the last byte, and (with the source) nothing but the edit?

1. Find the manifest; list every file; links and what is no regular file are violations.
2. Hash every file; hold the manifest's claims against the bytes (`claims`).
3. Survey the folder as `patch` would: no unverified weight file, every copy known, every row zero (`rows`).
4. With the source: nothing else was changed (`proof`). With an audit, neurons or a key: they agree as well.

Without the source, an audit or a signature, somebody who changed weights and manifest alike goes unnoticed,
unless the zeroed rows are what was changed. The result says which of these it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.checkpoint.edit.edit_file import Edit, GivenEdit, load_edit
from surgery.checkpoint.edit.edits import Change
from surgery.checkpoint.edit.trained import ReplaceTensors
from surgery.errors import SurgeryError, UsageError
from surgery.progress import byte_progress
from surgery.publish.claims import manifest_neurons, unreadable, untrue_claims
from surgery.publish.evidence import evidence_of, read_audit
from surgery.publish.method import audit_method
from surgery.publish.proof import differences_from_source
from surgery.publish.rows import surveyed, unfinished
from surgery.publish.signing import wrong_signature
from surgery.publish.stage import PUBLISHED
from surgery.publish.staged import (
    SIGNATURE,
    Staged,
    StagedFile,
    hashed,
    listed,
    open_staged,
    read_manifest,
)


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        out: the folder.
        violations: everything that is not as it should be, one sentence each; empty: verified.
        notes: what was not checked, one sentence each.
        files: every file, hashed.
        manifest: as it lies there.
        rows: rows that must be zero in every copy.
        against_source: whether the source was compared.
        signature: `good`, `bad`, `not checked` or `none`.
    """

    out: Path
    violations: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[StagedFile, ...]
    manifest: Mapping[str, Any]
    rows: int
    against_source: bool
    signature: str

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.violations

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        section = self.manifest.get(PUBLISHED)
        audit = section.get("audit") if isinstance(section, dict) else None
        return {
            "out": str(self.out),
            "ok": self.ok,
            "violations": list(self.violations),
            "notes": list(self.notes),
            "rows": self.rows,
            "against_source": self.against_source,
            "signature": self.signature,
            "verdict": audit.get("phrase") if isinstance(audit, dict) else None,
            "files": [file.as_json() for file in self.files],
        }


@dataclass(slots=True)
class _Found:
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(
    out: str | Path,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    plan: GivenEdit | None = None,
    audit: str | Path | Mapping[str, Any] | None = None,
    changes: Sequence[Change] = (),
    public_key: str | Path | None = None,
    quiet: bool = True,
) -> Verification:
    """Check everything that a patched folder says of itself. Nothing is written, and nothing is sent.

    Args:
        out: a folder that `patch` wrote, one file with its manifest, or the Hub id of one in the cache.
        source: the checkpoint that was patched; then nothing but the edit may differ.
        revision: of the source, where it is a Hub id.
        plan: the neurons, or the edit; then the manifest must be about it. Trained tensors of an edit can be
            proved against the source with it alone.
        audit: `audit.json`; then the manifest must say what it says.
        changes: what else was planned, as `patch` was told (with `source`).
        public_key: of the signature, PEM; then there must be a good one.
        quiet: no progress bar.

    Returns:
        the result; whether anything is wrong is `ok`.

    Raises:
        UsageError: there is no manifest, or an argument is wrong.
        SurgeryError: a file cannot be read.
    """
    edit = None if plan is None else load_edit(plan)
    changes = changes if edit is None else (*edit.changes, *changes)
    staged = open_staged(out)
    manifest = read_manifest(staged)
    found = _Found()
    files = _hashed(staged, found, quiet)
    problems = unreadable(manifest)
    found.violations += problems
    rows = 0
    if not problems:
        rows = _check(staged, manifest, files, found)
        _check_plan(manifest, edit, found)
        _check_audit(manifest, audit, found)
        if source is not None and staged.checkpoint.exists():
            if "trained" in manifest and not changes:
                found.violations.append("tensors were trained: give the edit (--plan) to prove them")
            else:
                found.violations += _source_violations(staged, manifest, source, revision, changes, quiet)
    if source is None:
        found.notes.append(
            "without --source, weights that were changed together with the manifest go unnoticed"
        )
    signature = _signature(staged, public_key, found)
    return Verification(
        staged.root if staged.whole else staged.checkpoint,
        tuple(dict.fromkeys(found.violations)),
        tuple(found.notes),
        tuple(files.values()),
        manifest,
        rows,
        source is not None and not problems,
        signature,
    )


def _hashed(staged: Staged, found: _Found, quiet: bool) -> dict[str, StagedFile]:
    paths, problems = listed(staged)
    found.violations += problems.values()
    usable = {path: place for path, place in paths.items() if path not in problems}
    total = sum(place.stat().st_size for place in usable.values())
    files = {}
    try:
        with byte_progress(total, "verify", quiet) as advance:
            for path, location in usable.items():
                files[path] = hashed(path, location)
                advance(files[path].bytes)
    except OSError as error:
        raise SurgeryError(staged.root, f"cannot be read ({error})", "run again") from error
    return files


def _check(
    staged: Staged, manifest: Mapping[str, Any], files: Mapping[str, StagedFile], found: _Found
) -> int:
    """The claims and the rows; returns how many rows must be zero."""
    text = staged.manifest_path.read_bytes()
    found.violations += untrue_claims(manifest, text, files, staged)
    if not isinstance(manifest.get(PUBLISHED), dict):
        found.notes += [
            f"{entry['path']}: only its header and value layers have a hash; `surgery card` hashes all of it"
            for entry in manifest["files"]
            if entry["sha256"] is None
        ]
        found.notes.append("no audit is recorded in the manifest: `surgery card` does that")
    try:
        neurons = manifest_neurons(manifest)
        checkpoint = surveyed(staged, (entry["path"] for entry in manifest["files"]))
        found.violations += unfinished(checkpoint, manifest, neurons)
    except UsageError as error:
        found.violations.append(f"it is no checkpoint that patch wrote: {error}")
        return 0
    return neurons.count


def _source_violations(
    staged: Staged,
    manifest: Mapping[str, Any],
    source: str | Path,
    revision: str | None,
    changes: Sequence[Change],
    quiet: bool,
) -> Iterator[str]:
    as_patched = {name: value for name, value in manifest.items() if name != PUBLISHED}
    try:
        neurons = manifest_neurons(manifest)
        checkpoint = surveyed(staged, (entry["path"] for entry in manifest["files"]))
    except UsageError:
        return  # said already
    differences = differences_from_source(
        source, staged, checkpoint, as_patched, neurons, revision=revision, changes=changes, quiet=quiet
    )
    yield from (f"against the source: {sentence}" for sentence in differences)


def _check_plan(manifest: Mapping[str, Any], edit: Edit | None, found: _Found) -> None:
    if edit is None:
        return
    if edit.neurons.as_json() != manifest["neurons"]["layers"]:
        found.violations.append("the manifest is about other neurons than the plan")
    facts = [dict(change.facts) for change in edit.changes if isinstance(change, ReplaceTensors)]
    if facts != [manifest[name] for name in ("trained",) if name in manifest]:
        found.violations.append("the manifest is about other trained tensors than the plan")


def _check_audit(manifest: Mapping[str, Any], audit: Any, found: _Found) -> None:
    if audit is None:
        return
    section = manifest.get(PUBLISHED)
    if not isinstance(section, dict):
        found.violations.append("the manifest records no audit")
        return
    try:
        document, digest = read_audit(audit)
        summary, prompts = evidence_of(document, digest, section["files"])
    except SurgeryError as error:
        found.violations.append(str(error))
        return
    recorded = (section.get("method") or {}).get("audit")
    if (summary, prompts) != (section["audit"], section["prompts"]) or (
        "method" in section and recorded != audit_method(document)
    ):
        found.violations.append("the manifest does not say what the audit says")


def _signature(staged: Staged, public_key: str | Path | None, found: _Found) -> str:
    if public_key is None:
        if not (staged.whole and (staged.root / SIGNATURE).exists()):
            return "none"
        found.notes.append("the signature was not checked: give --public-key")
        return "not checked"
    wrong = wrong_signature(staged.root, public_key)
    if wrong is not None:
        found.violations.append(wrong)
        return "bad"
    return "good"
