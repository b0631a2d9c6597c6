"""Changes after which the answer must still be yes."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from lying.layouts import manifest_path
from lying.table import (
    NotHere,
    Told,
)


def touched(told: Told) -> Path:
    for path in [told.path, *told.path.rglob("*")]:
        os.utime(path, (1, 1))
    return told.path


def hard_linked(told: Told) -> Path:
    for number, path in enumerate(told.files()):
        os.link(path, told.elsewhere / str(number))
    return told.path


def copied(told: Told) -> Path:
    """To another folder and another name, its manifest with it."""
    target = told.elsewhere / f"other name{told.path.suffix}"
    if told.path.is_dir():
        return Path(shutil.copytree(told.path, target))
    if manifest_path(told.path).exists():
        shutil.copy(manifest_path(told.path), manifest_path(target))
    return Path(shutil.copy(told.path, target))


def moved(told: Told) -> Path:
    folder = told.elsewhere / "deep" / "er"
    folder.mkdir(parents=True)
    manifest = manifest_path(told.path)
    if told.path.is_file() and manifest.exists():
        shutil.move(manifest, folder)
    shutil.move(told.path, folder)
    return folder / told.path.name


def read_only(told: Told) -> Path:
    for path in told.files():
        path.chmod(stat.S_IRUSR)
    return told.path


def world_writable(told: Told) -> Path:
    for path in told.files():
        path.chmod(0o777)
    return told.path


def read_through(told: Told) -> Path:
    for path in told.files():
        path.read_bytes()
    for path in told.weight_files():
        load_file(path)
    return told.path


def linked_whole(told: Told) -> Path:
    """The output's own path is a link; what lies in it is what was written."""
    link = told.elsewhere / f"link{told.path.suffix}"
    link.symlink_to(told.path)
    return link


def without_manifest(told: Told) -> Path:
    """Other tools write none."""
    manifest_path(told.path).unlink(missing_ok=True)
    return told.path


def downloaded(told: Told) -> Path:
    """As the Hugging Face cache stores it: links from a snapshot to the blobs beside it."""
    if told.path.is_file():
        raise NotHere
    repository = told.elsewhere / "models--someone--patched"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate([*told.files(), manifest_path(told.path)]):
        blob, link = repository / "blobs" / f"{number:064d}", snapshot / path.relative_to(told.path)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


HARMLESS: dict[str, Callable[[Told], Path]] = {
    "times": touched,
    "hard links": hard_linked,
    "a copy under another name": copied,
    "moved": moved,
    "read only": read_only,
    "world writable": world_writable,
    "read": read_through,
    "by way of a link": linked_whole,
    "without its manifest": without_manifest,
    "downloaded into the Hub cache": downloaded,
}
