"""Find the checkpoint that a user means: a folder, a file, or a Hugging Face Hub id in the local cache.

A Hub id is looked up in the cache only (`models--OWNER--NAME/refs/REVISION` -> `snapshots/COMMIT`); nothing
here uses the network. A path that exists always wins over a Hub id of the same spelling.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import UsageError
from surgery.files import absolute, expanded

FOLDER, FILE = "folder", "file"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CACHED_FOLDER = re.compile(r"models--(?P<name>[\w.-]+)")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint on this machine.

    Attributes:
        path: the absolute path of the folder or file; never shown in anything that is published.
        kind: `folder` or `file`.
        name: how it is called in a manifest: the Hub id, or the last part of the path.
        revision: the commit of a cached Hub snapshot, else None.
    """

    path: Path
    kind: str
    name: str
    revision: str | None = None


def locate(checkpoint: str | Path, revision: str | None = None) -> Source:
    """Find a checkpoint by path or by Hub id.

    Args:
        checkpoint: a folder, a file, or `OWNER/NAME` of a model in the Hugging Face cache; `~` is expanded.
        revision: for a Hub id: branch, tag or commit (default `main`).

    Raises:
        UsageError: no such path, and no such model in the cache; or a revision of a path, which has none.
    """
    text = os.fspath(checkpoint)
    path = expanded(text)
    kind = FOLDER if path.is_dir() else FILE if path.is_file() else None
    if kind is not None:
        source = _named_source(absolute(path), kind)
        if revision not in (None, source.revision):
            raise UsageError(
                f"--revision {revision}",
                f"{text} is a path, and only a Hub id has revisions",
                "drop it, or give the Hub id",
            )
        return source
    if os.path.lexists(path):
        raise UsageError(text, "is neither a folder nor a regular file", "give a checkpoint")
    if not _HUB_ID.fullmatch(text) or ".." in text:
        raise UsageError(text, "no such file or folder", "check the path")
    return _cached_source(text, revision or "main")


def cache_folder() -> Path:
    """The Hugging Face cache, by the same environment variables in the same order as huggingface_hub."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(variable):
            return expanded(os.environ[variable]) / below
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "huggingface" / "hub"


def _named_source(path: Path, kind: str) -> Source:
    resolved = path if path.name not in ("", "..") else path.resolve()
    # .../models--OWNER--NAME/snapshots/COMMIT[/...]: the cache's own folder tells the Hub id and the commit
    for position, part in enumerate(path.parts):
        match = _CACHED_FOLDER.fullmatch(part)
        if match and path.parts[position + 1 : position + 2] == ("snapshots",):
            below = path.parts[position + 2 :]
            name = "/".join([match["name"].replace("--", "/", 1), *below[1:]])
            return Source(path, kind, name, below[0] if below else None)
    return Source(resolved, kind, resolved.name)


def _cached_source(name: str, revision: str) -> Source:
    cached = expanded(cache_folder() / f"models--{name.replace('/', '--')}")
    download = f"download it first: hf download {name}"
    if not cached.is_dir():
        raise UsageError(
            name, "no such file or folder, and no such model in the Hugging Face cache", download
        )
    commit = revision
    reference = expanded(cached / "refs" / revision)
    if ".." not in revision and reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    snapshot = expanded(cached / "snapshots" / commit)
    if "/" in commit or ".." in commit or not snapshot.is_dir():
        raise UsageError(name, f"the Hugging Face cache has no snapshot of revision {revision!r}", download)
    return Source(absolute(snapshot), FOLDER, name, commit)
