"""A folder that is to be published: which checkpoint lies in it, which files, and what their bytes are.

The folder holds a checkpoint that `patch` wrote, with its manifest, and what the publish step adds: the card
and a signature. A checkpoint that is one file lies in a folder of its own. Whatever else lies there is named,
never passed over: files nobody listed are how unpatched copies and private prompts slip out.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.edit.manifest import manifest_text
from surgery.checkpoint.formats.json_text import read_small_json
from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.source import FILE, locate
from surgery.errors import UsageError

CARD, SIGNATURE = "README.md", "model.sig"
ADDED = (CARD, SIGNATURE)  # what the publish step may add to what `patch` wrote
LARGEST_MANIFEST = 64 * 1024 * 1024
_LARGEST_BLOB = 16 * 1024 * 1024  # the Hub keeps larger files by their sha256 alone
_STEP = 4 * 1024 * 1024
_PATCH_FIRST = "give the folder that `surgery patch` wrote"
# what a download leaves beside a checkpoint: the Hub's own file, and the download's notes
_HUB_FILE, _LARGEST_HUB_FILE = ".gitattributes", 64 * 1024
_NOTES, _NOTE_SUFFIXES, _LARGEST_NOTE = (
    ".cache/huggingface/",
    (".metadata", ".lock", ".gitignore", ".TAG"),
    4096,
)


@dataclass(frozen=True, slots=True)
class Staged:
    """A checkpoint that `patch` wrote, where it lies.

    Attributes:
        root: the folder whose files are published.
        checkpoint: the folder itself, or the one file in it.
        manifest_path: its manifest.
        whole: whether everything in `root` belongs to it; False where a file was named in somebody's folder.
    """

    root: Path
    checkpoint: Path
    manifest_path: Path
    whole: bool = True

    @property
    def is_file(self) -> bool:
        """Whether the checkpoint is one file."""
        return self.checkpoint != self.root

    def check_whole(self) -> None:
        """Refuse what cannot be published: one file of a folder that holds others.

        Raises:
            UsageError: it is such a file.
        """
        if not self.whole:
            cause = "is a file, and what is published is a folder"
            way_out = "move it, with its manifest, into a folder of its own, and give that folder"
            raise UsageError(self.checkpoint, cause, way_out)


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One file that would be published.

    Attributes:
        path: within the folder, with `/`; its name on the Hub.
        location: where it is on this machine.
        bytes: its size.
        sha256: of its bytes, hexadecimal.
        blob: git's id of it; "" above 16 MB, where nobody asks for it.
        state: what the file system said of it while it was hashed: a file changed later has another.
    """

    path: str
    location: Path
    bytes: int
    sha256: str
    blob: str
    state: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Path, size and sha256."""
        return {"path": self.path, "bytes": self.bytes, "sha256": self.sha256}


def open_staged(out: str | Path) -> Staged:
    """Find the checkpoint and the manifest of a folder that `patch` wrote, or of one file.

    Args:
        out: the folder; a folder that holds one `NAME.safetensors` with its manifest; that file; or the Hub
            id of a published checkpoint in the cache.

    Raises:
        UsageError: there is no such path, or no manifest, or more than one.
    """
    source = locate(out)
    path = source.path
    if source.kind == FILE:
        manifest = path.with_name(f"{path.name}.{MANIFEST_NAME}")
        if not os.path.lexists(manifest):
            raise UsageError(path, f"has no {manifest.name} beside it", _PATCH_FIRST)
        return Staged(path.parent, path, manifest, whole=False)
    if os.path.lexists(path / MANIFEST_NAME):
        return Staged(path, path, path / MANIFEST_NAME)
    manifests = sorted(path.glob(f"*.safetensors.{MANIFEST_NAME}"))
    if len(manifests) != 1:
        cause = f"holds no {MANIFEST_NAME}" if not manifests else "holds the manifests of several checkpoints"
        raise UsageError(out, cause, _PATCH_FIRST if not manifests else "give each a folder of its own")
    checkpoint = path / manifests[0].name.removesuffix(f".{MANIFEST_NAME}")
    if not checkpoint.is_file():
        raise UsageError(out, f"holds {manifests[0].name}, but not the file it is about", _PATCH_FIRST)
    return Staged(path, checkpoint, manifests[0])


def read_manifest(staged: Staged) -> dict[str, Any]:
    """The manifest, as far as it is a JSON object of ours; whether it is true is `verify`'s question.

    Raises:
        UsageError: it cannot be read, or is no manifest of surgery.
    """
    manifest = read_small_json(
        staged.manifest_path, staged.manifest_path.name, LARGEST_MANIFEST, "run `surgery patch` again"
    )
    if not str(manifest.get("format")).startswith("surgery.manifest/"):
        raise UsageError(staged.manifest_path.name, "is no manifest of surgery", _PATCH_FIRST)
    return manifest


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The manifest as the bytes of its file."""
    return manifest_text(manifest).encode("utf-8", "backslashreplace")


def listed(staged: Staged) -> tuple[dict[str, Path], dict[str, str]]:
    """Every file of the folder: path -> location; and what cannot be published at all: path -> sentence.

    The notes that a download from the Hub leaves are not listed: no loader reads them, and they stay here.
    """
    if not staged.whole:
        members = (staged.checkpoint, staged.manifest_path)
        return {each.name: each for each in members}, dict(_obstacles(members, staged.root))
    found: dict[str, Path] = {}
    for folder, below, names in os.walk(staged.root):
        for name in [*names, *(each for each in below if (Path(folder) / each).is_symlink())]:
            location = Path(folder) / name
            path = location.relative_to(staged.root).as_posix()
            if not _is_of_a_download(path, location):
                found[path] = location
    problems = dict(_obstacles(found.values(), staged.root))
    return dict(sorted(found.items())), problems


def hashed(path: str, location: Path) -> StagedFile:
    """Read a file once, and say what its bytes are.

    Raises:
        OSError: it cannot be read, or changed while it was read.
    """
    sha256 = hashlib.sha256()
    with location.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        size = before.st_size
        git = (
            hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if size <= _LARGEST_BLOB else None
        )
        while chunk := file.read(_STEP):
            sha256.update(chunk)
            if git is not None:
                git.update(chunk)
        after = os.fstat(file.fileno())
    if _state(before) != _state(after):
        raise OSError(f"{path} changed while it was read")
    return StagedFile(
        path, location, size, sha256.hexdigest(), "" if git is None else git.hexdigest(), _state(after)
    )


def with_content(file: StagedFile, content: bytes) -> StagedFile:
    """The same file as it would be with other bytes."""
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    return StagedFile(file.path, file.location, len(content), sha256, git, file.state)


def is_unchanged(file: StagedFile) -> bool:
    """Whether the file system still says of a file what it said when the file was hashed."""
    try:
        return _state(file.location.stat()) == file.state
    except OSError:
        return False


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _obstacles(locations: Iterable[Path], root: Path) -> Iterator[tuple[str, str]]:
    """Links and what is no regular file: what is uploaded then need not be what was checked."""
    blobs = root.resolve().parent.parent / "blobs"
    for location in locations:
        path = location.relative_to(root).as_posix()
        status = location.lstat()
        if stat.S_ISLNK(status.st_mode):
            cached = root.parent.name == "snapshots" and location.resolve().parent == blobs
            if not cached or not location.is_file():
                yield path, f"{path} is a symbolic link"
        elif not stat.S_ISREG(status.st_mode):
            yield path, f"{path} is not a regular file"


def _is_of_a_download(path: str, location: Path) -> bool:
    status = location.lstat()
    if not stat.S_ISREG(status.st_mode):
        return path == _HUB_FILE and location.is_file() and location.stat().st_size <= _LARGEST_HUB_FILE
    if path == _HUB_FILE:
        return status.st_size <= _LARGEST_HUB_FILE
    return path.startswith(_NOTES) and path.endswith(_NOTE_SUFFIXES) and status.st_size <= _LARGEST_NOTE
