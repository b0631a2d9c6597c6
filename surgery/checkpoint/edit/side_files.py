"""Files that are not weights: check that they are what their names say, and what `--keep` may carry over.

A tokenizer's file is carried over because of its name; a weight file renamed to `vocab.json` must not be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from surgery.checkpoint.formats.json_text import check_parsed_size, shortened
from surgery.checkpoint.formats.regular_file import read_regular
from surgery.checkpoint.survey.roles import COPY, INDEX, LEAVE_OUT, LICENSE, OTHER, CheckpointFile
from surgery.checkpoint.survey.side_content import LARGEST_SIDE_FILE, is_text, is_token_list
from surgery.checkpoint.survey.survey import SINGLE, Checkpoint
from surgery.errors import UsageError

LARGEST_KEPT = 16 * 1024 * 1024
PICTURE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")
_TOKEN_LISTS = frozenset({"vocab.txt", "merges.txt"})


def check_side_file(file: CheckpointFile) -> None:
    """Refuse a configuration, token list or kept file whose content is something else.

    Licenses and tokenizer models that are something else were left out by the survey.

    Raises:
        UsageError: it is no JSON, no text, or a disguised weight file.
    """
    content = read_regular(file.location, file.path, LARGEST_SIDE_FILE)
    suffix = PurePosixPath(file.path).suffix
    if file.role == LICENSE or suffix == ".model":
        return
    if suffix == ".json" or file.role == INDEX:
        try:
            check_parsed_size(content)
            json.loads(content)
        except (ValueError, RecursionError) as error:
            cause = f"is not valid JSON ({shortened(str(error))})"
            raise UsageError(file.path, cause, "restore the true file") from None
        return
    is_picture = file.role == OTHER and content.startswith(PICTURE_SIGNATURES)
    if not (is_picture or (is_token_list if file.name in _TOKEN_LISTS else is_text)(content)):
        raise UsageError(file.path, "is not text", "restore the true file")


def check_link(file: CheckpointFile, root: Path) -> None:
    """Refuse a text file that a symbolic link brings in from outside the checkpoint.

    A downloaded checkpoint could link `LICENSE` to a private key or `tokenizer` to a folder with credentials,
    and the output is made to be published. Weight files are not meant: what they hold is checked. The links
    of the Hugging Face cache, from a snapshot or a component in it to the blobs beside the snapshots, are its
    way of storing files.

    Args:
        file: a file to be carried over.
        root: the checkpoint's folder.

    Raises:
        UsageError: its content lies outside.
    """
    if root.resolve() not in file.location.resolve().parents and not is_cached(file, root):
        cause = "is brought in from outside the checkpoint by a symbolic link"
        raise UsageError(file.path, cause, "copy it into the checkpoint, or pass --follow-links")


def is_cached(file: CheckpointFile, root: Path) -> bool:
    """Whether a file of a snapshot in the Hugging Face cache is a link to its blob."""
    folder, target = root.resolve(), file.location.resolve()
    return any(  # the snapshot itself, or one component of it
        above.name == "snapshots" and target.parent == above.parent / "blobs" for above in folder.parents
    )


def kept_files(checkpoint: Checkpoint, keep: Sequence[str]) -> list[CheckpointFile]:
    """The checkpoint's files, those named by `keep` carried over as well.

    Args:
        checkpoint: the source.
        keep: paths within the source.

    Raises:
        UsageError: no such file, or one that could hold denoiser weights: only text and pictures of at most
            16 MB may be kept.
    """
    if keep and checkpoint.kind == SINGLE:
        raise UsageError("--keep", "a single-file checkpoint has no other files", "drop the option")
    files = list(checkpoint.files)
    places = {file.path: place for place, file in enumerate(files)}
    for wanted in keep:
        path = PurePosixPath(wanted).as_posix()
        if path not in places:
            raise UsageError(
                f"--keep {wanted}", "the checkpoint has no such file", "name it by its path in the source"
            )
        file = files[places[path]]
        if file.action != LEAVE_OUT:
            continue
        if file.role != OTHER or path.endswith("/") or not may_be_kept(file):
            cause = f"could hold denoiser weights ({file.role}, {file.reason})"
            raise UsageError(f"--keep {wanted}", cause, "only text and pictures can be kept")
        files[places[path]] = replace(file, action=COPY, reason="", output=file.path)
    return files


def may_be_kept(file: CheckpointFile) -> bool:
    """Whether a file is text or a picture of at most 16 MB, and so holds no weights.

    Raises:
        UsageError: it cannot be read.
    """
    if not file.location.is_file() or file.bytes > LARGEST_KEPT:
        return False
    content = read_regular(file.location, file.path, LARGEST_KEPT)
    return content.startswith(PICTURE_SIGNATURES) or is_text(content)
