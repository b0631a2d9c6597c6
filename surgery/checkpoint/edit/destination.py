"""Where `patch` may write, asked before the first byte; what `--force` may replace, asked again at the end.

Only what surgery wrote is ever replaced: a folder that holds a manifest of ours, a file that the manifest
beside it describes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.source import FILE, Source
from surgery.errors import UsageError
from surgery.files import absolute, expanded

SPARE_BYTES = 16 * 1024 * 1024  # for folders, manifest and the file system's own needs
_LARGEST_MANIFEST = 256 * 1024 * 1024
_HASHED_AGAIN = 64 * 1024 * 1024  # larger files are known again by their size


def check_output(source: Source, output: Path) -> Path:
    """Check that an output may be at this place, and return its absolute path.

    Raises:
        UsageError: it equals, contains or lies in the source, lies in the Hub's cache, its parent folder is
            missing, or a single file would not be called `.safetensors`.
    """
    output = absolute(expanded(output))
    is_file = source.kind == FILE
    expanded(manifest_beside(output) if is_file else output / MANIFEST_NAME)  # neither name may be too long
    target, origin = output.resolve(), source.path.resolve()
    if target == origin or (output.exists() and output.samefile(source.path)):
        raise UsageError(output, "is the source itself", "write to another place")
    if origin in target.parents and not is_file:
        raise UsageError(output, "lies inside the source", "write to another place")
    if target in origin.parents:
        raise UsageError(output, "contains the source", "write to another place")
    if is_file and output.suffix != ".safetensors":
        raise UsageError(
            output, "does not end in .safetensors", "a single file is written as safetensors only"
        )
    if any(part.name.startswith("models--") and (part / "snapshots").is_dir() for part in target.parents):
        raise UsageError(output, "lies inside the Hugging Face cache", "write to another place")
    if not output.parent.is_dir():
        raise UsageError(output.parent, "no such folder", "make it first")
    return output


def check_free(output: Path, is_file: bool, force: bool) -> None:
    """Refuse when something is at the output that may not be replaced.

    Raises:
        UsageError: anything at all, without `force`; with it, what surgery did not write.
    """
    places = [output, manifest_beside(output)] if is_file else [output]
    for place in places:
        if not os.path.lexists(place):
            continue
        if not force:
            raise UsageError(place, "exists", "choose another name, or replace it with --force")
        if place == output and not is_ours(output, is_file):
            raise UsageError(
                output, "is not a checkpoint that surgery wrote", "remove it yourself, or write elsewhere"
            )
        if place != output and _manifest(place) is None:
            raise UsageError(place, "is not a manifest that surgery wrote", "remove it yourself")


def is_ours(output: Path, is_file: bool) -> bool:
    """Whether surgery wrote what is there."""
    if output.is_symlink():
        return False
    if not is_file:
        return output.is_dir() and _manifest(output / MANIFEST_NAME) is not None
    manifest = _manifest(manifest_beside(output))
    return manifest is not None and output.is_file() and _describes(manifest, output)


def manifest_beside(output: Path) -> Path:
    """Where the manifest of a single file lies."""
    return output.with_name(f"{output.name}.{MANIFEST_NAME}")


def check_not_holding(output: Path, locations: Iterable[Path]) -> None:
    """Refuse to replace an output that the source's own files lie in, by way of symbolic links.

    Raises:
        UsageError: naming the file.
    """
    target = output.resolve()
    for location in locations:
        origin = location.resolve()
        if target == origin or target in origin.parents:
            raise UsageError(
                output, f"holds a file of the source ({location.name})", "write to another place"
            )


def check_space(output: Path, needed: int) -> None:
    """Refuse before the first byte when the file system has less than `needed` bytes free.

    Raises:
        UsageError: with both numbers in gigabytes.
    """
    free = shutil.disk_usage(output.parent).free
    if free < needed + SPARE_BYTES:
        raise UsageError(
            output,
            f"needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there",
            "free some, or write elsewhere",
        )


def _manifest(path: Path) -> dict[str, object] | None:
    """A manifest of ours, of whatever version; None for anything else."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST_MANIFEST:
            return None
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    known = isinstance(document, dict) and str(document.get("format")).startswith("surgery.manifest/")
    return document if known else None


def _describes(manifest: dict[str, object], output: Path) -> bool:
    files = manifest.get("files")
    if not isinstance(files, list) or len(files) != 1 or not isinstance(files[0], dict):
        return False
    size, digest = output.stat().st_size, files[0].get("sha256")
    if files[0].get("bytes") != size:
        return False
    if digest is None or size > _HASHED_AGAIN:
        return True
    with output.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest
