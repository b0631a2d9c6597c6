"""What a repository on the Hub holds, held against what was verified here. Nothing here uses the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from surgery.checkpoint.names.files import LICENSE_FILE
from surgery.publish.staged import StagedFile

HUB_FILE = ".gitattributes"  # every new repository has it
# what no loader reads: whatever else an earlier upload left, an index or a script among it, is stale
_HARMLESS = frozenset({".md", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"})
_LARGEST_HARMLESS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        bytes: its size.
        sha256: of its content, where the Hub keeps it as a large file; else "".
        blob: git's id: of the content, or of the pointer of a large file.
    """

    bytes: int
    sha256: str
    blob: str


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository as it is at one commit.

    Attributes:
        exists: whether there is one that we may see; all else is empty where there is none.
        private: whether only its owners see it.
        head: the commit of its main branch.
        files: path -> file.
        others: its other branches and tags.
    """

    exists: bool
    private: bool = True
    head: str = ""
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, RemoteFile]:
        """Its files without the one that every repository has."""
        return {path: file for path, file in self.files.items() if path != HUB_FILE}


def differs(remote: Remote, files: Iterable[StagedFile]) -> Iterator[str]:
    """Every verified file that the repository does not hold byte by byte, one sentence each."""
    for file in files:
        held = remote.files.get(file.path)
        if held is None:
            yield f"the repository lacks {file.path}"
        elif not _is_same(held, file):
            yield f"the repository holds other bytes as {file.path}"


def stale(remote: Remote, files: Sequence[StagedFile]) -> tuple[str, ...]:
    """The files of a repository that an upload with `--replace` deletes."""
    own = {file.path for file in files}
    return tuple(path for path, held in remote.content.items() if path not in own and not _stays(path, held))


def kept(remote: Remote, files: Sequence[StagedFile]) -> tuple[str, ...]:
    """The files that the repository still holds afterwards, besides the uploaded ones."""
    gone = {*stale(remote, files), *(file.path for file in files)}
    return tuple(path for path in remote.content if path not in gone)


def _is_same(held: RemoteFile, file: StagedFile) -> bool:
    if held.bytes != file.bytes:
        return False
    return held.sha256 == file.sha256 if held.sha256 else bool(file.blob) and held.blob == file.blob


def _stays(path: str, held: RemoteFile) -> bool:
    """Texts and pictures for people stay; whoever wants them gone deletes them."""
    name = PurePosixPath(path).name
    harmless = PurePosixPath(name).suffix.lower() in _HARMLESS or LICENSE_FILE.fullmatch(name) is not None
    return harmless and held.bytes <= _LARGEST_HARMLESS
