"""List the files of a checkpoint folder, two levels deep, as a pipeline has them.

Symbolic links are followed to their content (a Hub cache is made of them). Whatever lies deeper, in hidden
folders, or is no regular file is listed as one entry with the reason why it can't be carried over: nothing is
passed over in silence.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import UsageError


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One entry of a folder.

    Attributes:
        path: relative to the folder, with `/`; a folder that is not looked into ends in `/`.
        location: where it is on this machine.
        bytes: its size (of all files below, for a folder).
        obstacle: why it cannot be carried over, or "".
    """

    path: str
    location: Path
    bytes: int
    obstacle: str = ""


def scan_folder(root: Path) -> list[FoundFile]:
    """Every file of the folder and of its direct sub-folders, sorted by path.

    Raises:
        UsageError: a folder cannot be read.
    """
    found: list[FoundFile] = []
    for entry in _entries(root):
        if not _is_folder(entry):
            found.append(_found(entry, entry.name))
        elif entry.name.startswith("."):
            found.append(_unopened(entry, entry.name, "a hidden folder (it may hold earlier weights)"))
        else:
            for inner in _entries(Path(entry.path)):
                path = f"{entry.name}/{inner.name}"
                if _is_folder(inner):
                    found.append(_unopened(inner, path, "nested deeper than a pipeline's files are"))
                else:
                    found.append(_found(inner, path))
    return sorted(found, key=lambda file: file.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UsageError(folder, f"cannot be read ({error.strerror})", "check its permissions") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _found(entry: os.DirEntry[str], path: str) -> FoundFile:
    try:
        status = entry.stat()
    except OSError:
        return FoundFile(path, Path(entry.path), 0, "a symbolic link that leads nowhere")
    if not stat.S_ISREG(status.st_mode):
        return FoundFile(path, Path(entry.path), 0, "not a regular file")
    if not path.isprintable():  # not UTF-8, or control characters that a terminal would obey
        printable = path.encode("unicode_escape", "backslashreplace").decode("ascii")
        return FoundFile(printable, Path(entry.path), status.st_size, "its name is not printable text")
    return FoundFile(path, Path(entry.path), status.st_size)


def _unopened(entry: os.DirEntry[str], path: str, obstacle: str) -> FoundFile:
    total = 0
    for folder, _, names in os.walk(entry.path):  # symbolic links to folders are not followed
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 -- a hot loop over .git
            except OSError:
                continue
    return FoundFile(path + "/", Path(entry.path), total, obstacle)
