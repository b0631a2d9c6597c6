"""List the files of a checkpoint folder, two levels deep, as a pipeline has them.

Symbolic links are followed to their content (a Hub cache is made of them). Whatever lies deeper, in hidden
folders, or is no regular file is listed as one entry with the reason why it can't be carried over: nothing is
passed over in silence. What such a folder holds is counted, up to a limit: a link can lead to a whole disk.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import UsageError

MAX_ENTRIES = 100_000  # of one folder of a checkpoint; a repository of samples has some thousands
MAX_COUNTED = 20_000  # files and folders below one that is not looked into; a `.git` has some hundreds


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One entry of a folder.

    Attributes:
        path: relative to the folder, with `/`; a folder that is not looked into ends in `/`.
        location: where it is on this machine.
        bytes: its size (of all files below, for a folder: of those that were counted).
        obstacle: why it cannot be carried over, or "".
    """

    path: str
    location: Path
    bytes: int
    obstacle: str = ""


def scan_folder(root: Path, components: Collection[str] = ()) -> list[FoundFile]:
    """Every file of the folder and of its direct sub-folders, sorted by path.

    Args:
        root: the folder.
        components: sub-folders that a pipeline loads from: they are looked into even where they are links
            that lead outside (what may be carried over from there is decided later).

    Raises:
        UsageError: a folder cannot be read, or has more files than any checkpoint.
    """
    found: list[FoundFile] = []
    budget = [MAX_COUNTED]  # of the whole scan
    for entry in _entries(root):
        if not _is_folder(entry):
            found.append(_found(entry, entry.name))
        elif entry.name.startswith("."):
            found.append(
                _unopened(entry, entry.name, "a hidden folder (it may hold earlier weights)", budget)
            )
        elif entry.is_symlink() and _leads_out(entry, root, components):
            # Somebody's home, `/`, the folder itself: what lies there is no part of the checkpoint, and not
            # even its names are ours to tell.
            reason = "a symbolic link to a folder outside the checkpoint"
            found.append(FoundFile(f"{_printable(entry.name)}/", Path(entry.path), 0, reason))
        else:
            for inner in _entries(Path(entry.path)):
                path = f"{entry.name}/{inner.name}"
                if _is_folder(inner):
                    found.append(_unopened(inner, path, "nested deeper than a pipeline's files are", budget))
                else:
                    found.append(_found(inner, path))
            _check_number(root, len(found))
    return sorted(found, key=lambda file: file.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = list(itertools.islice(entries, MAX_ENTRIES + 1))
    except OSError as error:
        raise UsageError(folder, f"cannot be read ({error.strerror})", "check its permissions") from None
    _check_number(folder, len(found))
    return found


def _check_number(folder: Path, number: int) -> None:
    if number > MAX_ENTRIES:
        raise UsageError(folder, f"holds more than {MAX_ENTRIES} files", "give the folder of one checkpoint")


def _leads_out(entry: os.DirEntry[str], root: Path, components: Collection[str]) -> bool:
    """Whether a linked folder is none of the checkpoint's: it lies outside, and nothing names it."""
    folder, target = root.resolve(), Path(entry.path).resolve()
    if folder == target or target in folder.parents:
        return True
    return entry.name not in components and folder not in target.parents


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
        reason = "its name is not printable text"
        return FoundFile(_printable(path), Path(entry.path), status.st_size, reason)
    return FoundFile(path, Path(entry.path), status.st_size)


def _unopened(entry: os.DirEntry[str], path: str, obstacle: str, budget: list[int]) -> FoundFile:
    """A folder as one entry; its files are counted until `budget` (one number) is used up."""
    total = 0
    folders = [] if entry.is_symlink() else [entry.path]  # links to folders are not followed
    while folders and budget[0] > 0:
        try:
            with os.scandir(folders.pop()) as entries:
                for inner in itertools.islice(entries, budget[0]):
                    budget[0] -= 1
                    if inner.is_dir(follow_symlinks=False):
                        folders.append(inner.path)
                    else:
                        total += inner.stat(follow_symlinks=False).st_size
        except OSError:  # no permission, or a path too long for the system
            continue
    if budget[0] <= 0:
        obstacle = f"{obstacle}; more than {total} bytes, not counted to the end"
    return FoundFile(f"{_printable(path)}/", Path(entry.path), total, obstacle)


def _printable(path: str) -> str:
    return path if path.isprintable() else path.encode("unicode_escape", "backslashreplace").decode("ascii")
