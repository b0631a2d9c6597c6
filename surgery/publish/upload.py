"""Upload: put a verified folder on the Hub, and nothing else. Without `push` it only says what it would do.

1. Gates, before a byte leaves: the folder verifies, the audit's gate is open (or its risk accepted), nothing
   private lies there, there is a card, the repository is empty (or may be replaced) and not public unasked.
2. The repository is made private; the large files are sent; what was sent is hashed and looked at once more.
3. One commit, on top of the commit that was looked at; stale files are deleted in it.
4. The remote list is read back and compared, file by file. Only then does a repository become public.

Every step can be repeated: what is on the Hub already is not sent again, and a commit whose answer was lost
is found by reading the list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

from surgery.errors import GateError, SurgeryError, UsageError
from surgery.publish import hub
from surgery.publish.card import preview_accepted, write_card
from surgery.publish.evidence import gate_passed, gate_reason
from surgery.publish.private import private_matter
from surgery.publish.remote import Remote, differs, kept, stale
from surgery.publish.signing import sign as sign_folder
from surgery.publish.stage import PUBLISHED
from surgery.publish.staged import CARD, StagedFile, open_staged
from surgery.publish.verify import Verification, verify

_MESSAGE = "Publish the checkpoint that surgery patched and verified"
_HISTORY = (
    "earlier commits keep the deleted files, and whoever has their address still gets them; to drop them: "
    "huggingface_hub.HfApi().super_squash_history({repo_id!r}), which cannot be undone"
)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Upload:
    """What `upload` did, or would do.

    Attributes:
        repo_id: the repository.
        files: what is published, hashed.
        refusals: why it may not be published, one sentence each; empty: it may.
        deletes: files of the repository that go in the same commit.
        keeps: further files that the repository still holds afterwards.
        notes: what the user should know.
        remote: `not asked`, `absent`, `empty` or `holds files`.
        pushed: whether the repository now holds exactly these files, read back and compared.
        commit: its commit; "" where nothing was pushed.
        private: whether the repository is, or would be, private.
    """

    repo_id: str
    files: tuple[StagedFile, ...]
    refusals: tuple[str, ...]
    deletes: tuple[str, ...]
    keeps: tuple[str, ...]
    notes: tuple[str, ...]
    remote: str
    pushed: bool
    commit: str
    private: bool

    @property
    def url(self) -> str:
        """The repository's page."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repo_id}"

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        lists = {name: list(getattr(self, name)) for name in ("refusals", "deletes", "keeps", "notes")}
        return {
            "repo_id": self.repo_id,
            "url": self.url,
            "pushed": self.pushed,
            "commit": self.commit,
            "private": self.private,
            "remote": self.remote,
            **lists,
            "files": [file.as_json() for file in self.files],
        }


def upload(
    out: str | Path,
    repo_id: str,
    *,
    push: bool = False,
    public: bool = False,
    replace: bool = False,
    accept_risk: str | None = None,
    source: str | Path | None = None,
    revision: str | None = None,
    audit: str | Path | Mapping[str, Any] | None = None,
    sign: str | Path | None = None,
    public_key: str | Path | None = None,
    allow: Collection[str] = (),
    quiet: bool = True,
) -> Upload:
    """Publish a patched folder on the Hub; without `push`, say what that would do.

    Args:
        out: the folder, with its audit recorded and its card written.
        repo_id: `OWNER/NAME`.
        push: act.
        public: the repository may be seen by everybody; it becomes so after everything was compared.
        replace: delete the stale files of a repository that is not empty.
        accept_risk: why this is published although the audit's gate is shut; it is written into the card.
        source, revision, audit, public_key: as for `verify`.
        sign: a private key: the folder is signed before it is verified (with `push`).
        allow: paths of pictures and texts that may be published.
        quiet: no progress bars.

    Returns:
        what was done, or would be.

    Raises:
        UsageError: a bad argument, or `push` while huggingface_hub is offline.
        GateError: with `push`: a gate said no, before a byte left; or the repository is not what was sent.
        SurgeryError: the Hub could not be reached, or did not take it; run again.
    """
    hub.check_repo_id(repo_id)
    if push and hub.is_offline():
        raise UsageError("--push", "HF_HUB_OFFLINE is set", "unset it, or run without --push")
    staged = open_staged(out)
    staged.check_whole()
    if accept_risk is not None and push:
        write_card(staged.root, accept_risk=accept_risk)
    if sign is not None and push:
        sign_folder(staged.root, sign)
    verification = verify(
        staged.root, source=source, revision=revision, audit=audit, public_key=public_key, quiet=quiet
    )
    refusals = [*verification.violations, *_local_refusals(verification, accept_risk, allow)]
    files = verification.files
    if accept_risk is not None and not push:
        files = preview_accepted(staged, files, accept_risk)
    with hub.without_secrets():
        remote, notes = _asked(repo_id, push)
        planned = _planned(repo_id, files, refusals, [*verification.notes, *notes], remote, public, replace)
        if not push:
            return planned
        if planned.refusals:
            raise _refused(staged.root, planned.refusals)
        with hub.bars(quiet):
            return _push(planned, public, replace)


def _local_refusals(
    verification: Verification, accept_risk: str | None, allow: Collection[str]
) -> Iterator[str]:
    section = verification.manifest.get(PUBLISHED)
    if not isinstance(section, dict):
        yield "the manifest records no audit: run `surgery card OUT --audit audit.json` first"
    elif verification.ok and not gate_passed(section["audit"]):
        reason = gate_reason(section["audit"])
        if accept_risk is None and not section["gate"]["accepted_risk"]:
            yield f"{reason}; to publish all the same, give --accept-risk with the reason"
    if not any(file.path == CARD for file in verification.files):
        yield f"there is no {CARD}: run `surgery card OUT` first"
    yield from private_matter(verification.files, allow)


def _asked(repo_id: str, push: bool) -> tuple[Remote | None, list[str]]:
    """The repository, or None and why it was not asked."""
    if hub.is_offline():
        return None, ["the Hub was not asked what the repository holds: HF_HUB_OFFLINE is set"]
    try:
        return hub.read_remote(repo_id), []
    except SurgeryError as error:
        if push:
            raise
        return None, [f"the Hub could not be asked what the repository holds: {error}"]


def _planned(
    repo_id: str,
    files: tuple[StagedFile, ...],
    refusals: list[str],
    notes: list[str],
    remote: Remote | None,
    public: bool,
    replace: bool,
) -> Upload:
    """What an upload into this repository would do, and what speaks against it."""
    if remote is None or not remote.exists:
        state = "not asked" if remote is None else "absent"
        return Upload(repo_id, files, tuple(refusals), (), (), tuple(notes), state, False, "", not public)
    if not remote.private and not public:
        refusals.append("the repository is public; give --public if that is meant")
    deletes, keeps = stale(remote, files), kept(remote, files)
    is_done = not deletes and not any(differs(remote, files))
    if remote.content and not is_done and not replace:
        refusals.append(
            f"the repository holds {len(remote.content)} files already; give --replace to replace them"
        )
    if remote.content and not is_done:
        notes.append(_HISTORY.format(repo_id=repo_id))
    if remote.others:
        names = ", ".join(remote.others[:_SHOWN])
        notes.append(f"other branches and tags keep their own files, which this does not touch: {names}")
    state = "holds files" if remote.content else "empty"
    private = remote.private and not public
    return Upload(repo_id, files, tuple(refusals), deletes, keeps, tuple(notes), state, False, "", private)


def _push(planned: Upload, public: bool, may_replace: bool) -> Upload:
    repo_id, files = planned.repo_id, planned.files
    if planned.remote == "absent":
        hub.create_private(repo_id)
    remote = hub.read_remote(repo_id)  # the state that the commit stands on
    if not remote.exists:
        raise SurgeryError(repo_id, "was created, and cannot be seen", "check your token, and run again")
    planned = _planned(repo_id, files, [], list(planned.notes), remote, public, may_replace)
    planned = with_changes(planned, notes=tuple(dict.fromkeys(planned.notes)))
    if planned.refusals:  # it changed since it was asked first
        raise _refused(repo_id, planned.refusals)
    if planned.deletes or any(differs(remote, files)):
        remote = _committed(planned, remote)
    if problems := [*differs(remote, files), *_left(planned, remote)]:
        raise _refused(
            repo_id, problems, "the repository is not what was sent; do not announce it, run again"
        )
    if public and remote.private:
        hub.make_public(repo_id)
        remote = hub.read_remote(repo_id)
        if remote.private or any(differs(remote, files)):
            raise GateError(
                repo_id, "could not be made public as it was compared", "look at it, and run again"
            )
    return with_changes(planned, pushed=True, commit=remote.head, private=remote.private)


def _committed(planned: Upload, remote: Remote) -> Remote:
    """Commit, and read the list back; an answer that was lost is no failure where the list says it landed."""
    try:
        hub.commit(planned.repo_id, planned.files, planned.deletes, remote.head, _MESSAGE)
    except GateError:
        raise
    except SurgeryError as error:
        try:
            after = hub.read_remote(planned.repo_id)
        except SurgeryError:
            raise error from None
        if any(differs(after, planned.files)) or any(_left(planned, after)):
            raise
        return after
    return hub.read_remote(planned.repo_id)


def _left(planned: Upload, remote: Remote) -> Iterator[str]:
    """What the repository holds that it should no longer hold, or that nobody knew of."""
    own = {file.path for file in planned.files} | set(planned.keeps)
    yield from (f"the repository still holds {path}" for path in remote.content if path not in own)


def _refused(thing: object, reasons: Sequence[str], way_out: str = "nothing was sent") -> GateError:
    more = len(reasons) - _SHOWN
    shown = "; ".join(reasons[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return GateError(thing, shown, way_out)
