"""What must never be published, recognized by what it holds: prompts, evidence that quotes them, keys.

`verify` already refuses every file that `patch` did not write. This is the second lock: it looks into the
files that are left, whatever the manifest says of them, and names what is private by its content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath

from surgery.checkpoint.edit.side_files import PICTURE_SIGNATURES
from surgery.checkpoint.formats.safetensors_file import read_header
from surgery.checkpoint.names.files import COMPONENT_SIDE_FILES, LICENSE_FILE, MANIFEST_NAME, MODEL_INDEX
from surgery.errors import UsageError
from surgery.formats import FORMATS
from surgery.publish.staged import ADDED, StagedFile

_LARGEST_TEXT = 64 * 1024 * 1024
_FORMAT = re.compile(rb'"format"\s*:\s*"(surgery\.[a-z.-]+/\d+)"')
_OWN_METADATA = "surgery"  # the key under which calibrations and edits keep their JSON
# some trainers write captions into a weight file's header (`ss_tag_frequency`), others a thumbnail
_LONGEST_METADATA = 1000
_CAPTIONS = re.compile(r"prompt|caption|thumbnail|tag_frequency|dataset", re.IGNORECASE)
# what keys and tokens look like: of the Hub, of model providers, of clouds and code hosts, and private keys
_SECRETS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "an access key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a secret key": rb"\bsk-[A-Za-z0-9_-]{32,}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_SECRET = {what: re.compile(pattern) for what, pattern in _SECRETS.items()}


def private_matter(files: Iterable[StagedFile], allow: Collection[str] = ()) -> Iterator[str]:
    """Everything in a folder that must not be published, one sentence each.

    Args:
        files: of the folder.
        allow: paths of pictures and texts that somebody has looked at and wants to publish.
    """
    for file in files:
        name = PurePosixPath(file.path).name
        if any(part.startswith(".") for part in PurePosixPath(file.path).parts):
            yield f"{file.path} is hidden"
        elif name.endswith(".safetensors"):
            yield from _in_weights(file, allow)
        elif file.bytes <= _LARGEST_TEXT:
            yield from _in_content(file, name, allow)
        else:
            yield f"{file.path} is too large to be looked into, and is no safetensors file"


def _in_weights(file: StagedFile, allow: Collection[str]) -> Iterator[str]:
    try:
        header = read_header(file.location, file.path)
    except UsageError as error:
        yield f"{file.path} {error.cause}"
        return
    metadata = header.metadata or {}
    if _OWN_METADATA in metadata:
        yield f"{file.path} is a calibration or an edit, not weights of a model"
    elif file.path not in allow:
        for name, value in metadata.items():
            if len(value) > _LONGEST_METADATA or _CAPTIONS.search(name):
                yield f"{file.path}: its metadata may quote captions or hold a picture ({name[:40]})"


def _in_content(file: StagedFile, name: str, allow: Collection[str]) -> Iterator[str]:
    content = file.location.read_bytes()
    for what, pattern in _SECRET.items():
        if pattern.search(content):
            yield f"{file.path} holds {what}"
    if name.endswith(MANIFEST_NAME):  # every field of it is `verify`'s business
        return
    for tag in {match.decode() for match in _FORMAT.findall(content)}:
        yield f"{file.path} is {_called(tag)}"
    if file.path in allow or name in (*ADDED, MODEL_INDEX):
        return
    if content.startswith(PICTURE_SIGNATURES):
        yield f"{file.path} is a picture, which may be a training image"
    elif _is_ranking(content):
        yield f"{file.path} quotes prompts"
    elif not _is_of_a_checkpoint(name):
        yield f"{file.path} is none of the texts that a pipeline reads, and may quote prompts"


def _is_of_a_checkpoint(name: str) -> bool:
    index = name.endswith(".json") and ".index." in name
    return index or name in COMPONENT_SIDE_FILES or LICENSE_FILE.fullmatch(name) is not None


def _called(tag: str) -> str:
    family = tag.rpartition("/")[0]
    known = next(
        (one.name for one in FORMATS if one.tag.rpartition("/")[0] == family), "one of surgery's files"
    )
    return f"{known} ({tag}), which is not for publishing"


def _is_ranking(content: bytes) -> bool:
    """Whether it is JSON lines with a prompt in each, as `scan` and the journal of `localize` write them."""
    line = content.partition(b"\n")[0]
    if not line.startswith(b"{") or len(line) > 65536:
        return False
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "prompt" in first
