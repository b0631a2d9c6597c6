"""The Hub, through huggingface_hub and nothing else: its routes, its tokens, its retries.

Tokens are huggingface_hub's own business: none is read, passed, stored or shown here. What the Hub says in an
error is shown on one line, without addresses' queries (they hold signatures) and without anything like a key.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from surgery.errors import GateError, SurgeryError, UsageError
from surgery.publish.remote import Remote, RemoteFile
from surgery.publish.staged import StagedFile, is_unchanged

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# Such files are sent from memory: nobody can change them on the way. The Hub keeps everything above 10 MB as
# a large file, so that nothing which a commit itself holds is read from the disk once more.
_HELD_IN_MEMORY = 16 * 1024 * 1024
_LONGEST = 300
_SECRET = re.compile(r"\b(?:hf_|api_org_)\w+|Bearer\s+\S+|\?\S+", re.IGNORECASE)
_WAYS_OUT = {
    401: "log in with `hf auth login`, or set HF_TOKEN",
    403: "use a token that may write to this repository",
    404: "check the name, and that your token may see it",
    409: "somebody else is writing to it; run again",
    412: "it changed while this ran; run again",
}


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no `OWNER/NAME`.

    Raises:
        UsageError: it is none.
    """
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise UsageError(f"--repo-id {repo_id}", "is no name of a repository", "give OWNER/NAME")


def is_offline() -> bool:
    """Whether huggingface_hub was told to stay off the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def read_remote(repo_id: str) -> Remote:
    """What a repository holds now, at one commit.

    Raises:
        SurgeryError: the Hub could not be asked.
    """
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    api = _api()
    with _speaking(repo_id, "be read"):
        try:
            info = api.model_info(repo_id)
        except RepositoryNotFoundError:
            return Remote(False)
        head = str(info.sha or "")
        files = {
            entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
            for entry in api.list_repo_tree(repo_id, recursive=True, revision=head or None)
            if isinstance(entry, RepoFile)
        }
        references = api.list_repo_refs(repo_id)
        others = tuple(each.name for each in [*references.branches, *references.tags] if each.name != "main")
    return Remote(True, bool(info.private), head, files, others)


def create_private(repo_id: str) -> None:
    """Make a private repository; one that exists stays as it is.

    Raises:
        SurgeryError: it could not be made.
    """
    with _speaking(repo_id, "be created"):
        _api().create_repo(repo_id, private=True, exist_ok=True)


def make_public(repo_id: str) -> None:
    """Show a repository to everybody.

    Raises:
        SurgeryError: it could not be done.
    """
    with _speaking(repo_id, "be made public"):
        _api().update_repo_settings(repo_id, private=False)


def commit(
    repo_id: str, files: Sequence[StagedFile], deletes: Sequence[str], parent: str, message: str
) -> str:
    """Send the verified bytes and delete what is stale, in one commit on top of `parent`.

    Every file is hashed again before it is sent, and looked at again after: bytes that are not the verified
    ones never become a commit.

    Returns:
        the commit.

    Raises:
        GateError: a file is not what was verified; nothing was committed.
        SurgeryError: the Hub did not take it, or its answer was lost.
    """
    from huggingface_hub import CommitOperationDelete

    api = _api()
    additions = [_addition(file) for file in files]
    try:
        with _speaking(repo_id, "take the files"):
            api.preupload_lfs_files(repo_id, additions, revision="main", free_memory=False)
    except SurgeryError:
        # Several files are sent at once: the one that failed first need not be the one that was changed.
        _check_what_was_sent(files, additions)
        raise
    _check_what_was_sent(files, additions)
    deletions = [CommitOperationDelete(path, is_folder=False) for path in deletes]
    with _speaking(repo_id, "take the commit"):
        made = api.create_commit(
            repo_id,
            [*deletions, *additions],
            commit_message=message,
            revision="main",
            parent_commit=parent or None,
        )
    return str(made.oid)


def _addition(file: StagedFile) -> Any:
    from huggingface_hub import CommitOperationAdd

    content: bytes | str = str(file.location)
    try:
        if file.bytes <= _HELD_IN_MEMORY:
            content = file.location.read_bytes()
        addition = CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=content)
        if isinstance(content, str) and _sends_by_xet():
            # Not hashed here, it is hashed while it is sent, and compared afterward.
            same = is_unchanged(file)
        else:
            same = addition.upload_info.sha256.hex() == file.sha256  # the store refuses what is not that
    except (OSError, ValueError):
        same = False
    if not same:
        raise _changed(file)
    return addition


def _sends_by_xet() -> bool:
    """Whether huggingface_hub sends large files through Xet, which believes the hash that it is told."""
    from huggingface_hub import _commit_api

    asked = getattr(_commit_api, "is_xet_available", None)
    return asked is not None and bool(asked())


def _check_what_was_sent(files: Sequence[StagedFile], additions: Sequence[Any]) -> None:
    """Refuse to go on where a file that is sent from the disk is no longer the one that was verified."""
    for file, addition in zip(files, additions, strict=True):
        in_memory = isinstance(addition.path_or_fileobj, bytes)
        if addition.upload_info.sha256.hex() != file.sha256 or not (in_memory or is_unchanged(file)):
            raise _changed(file)


def _changed(file: StagedFile) -> GateError:
    return GateError(
        file.path, "changed after it was verified; nothing was committed", "verify and run again"
    )


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="surgery")


@contextmanager
def _speaking(repo_id: str, what: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one line that holds no secret."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        behind = _behind(error)
        answer = next((each for each in behind if isinstance(each, errors.HfHubHTTPError)), None)
        if answer is None:
            # what huggingface_hub says of it, and what was at the bottom of it
            said = dict.fromkeys(shown(str(each)) or type(each).__name__ for each in (error, behind[-1]))
            cause = f"could not {what}: {': '.join(said)}"
            raise SurgeryError(repo_id, cause, "check the connection, and run again") from None
        status = answer.response.status_code
        said_there = shown(answer.server_message or "")
        way_out = _WAYS_OUT.get(status, "run again: what is there already is not sent twice")
        wait = answer.response.headers.get("Retry-After", "")
        if status == 429:
            way_out = f"wait {wait} seconds, and run again" if wait.isdigit() else "wait, and run again"
        cause = f"could not {what}: the Hub says {status}" + (f" ({said_there})" if said_there else "")
        raise SurgeryError(repo_id, cause, way_out) from None


def _behind(error: BaseException) -> list[BaseException]:
    """An error and what it goes back to, the first cause last: huggingface_hub wraps those of an upload."""
    found: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and behind not in found:
        found.append(behind)
        behind = behind.__cause__ or behind.__context__
    return found


@contextmanager
def bars(quiet: bool) -> Iterator[None]:
    """Progress bars of huggingface_hub as all others here: on a terminal only, and never with `quiet`."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled() or not (quiet or not sys.stderr.isatty()):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def without_secrets() -> Iterator[None]:
    """Inside, what huggingface_hub logs holds no secret: before it tries again it warns with whole addresses,
    and those of the store hold signatures.
    """

    def plain(record: logging.LogRecord) -> bool:
        record.msg, record.args = shown(record.getMessage()), ()
        return True

    logger = logging.getLogger("huggingface_hub.utils._http")
    logger.addFilter(plain)
    try:
        yield
    finally:
        logger.removeFilter(plain)


def shown(text: str) -> str:
    """Words of the Hub on one line, cut, without queries and keys."""
    line = " ".join(_SECRET.sub("...", text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
