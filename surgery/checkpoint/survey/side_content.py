"""What side files hold: a license or a tokenizer's file is carried over for its name, a weight file never.

Decided here, with the survey, is what `patch` leaves out for its content; `diff` then knows it too. Only text
is read generously: a license in UTF-16 or a legacy encoding is a license, a PDF could be anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from surgery.checkpoint.survey.roles import CONFIGURATION_FILE, LEAVE_OUT, LICENSE, TOKENIZER, CheckpointFile

LARGEST_SIDE_FILE = 40 * 1024 * 1024  # the largest tokenizers in use take about 33 MB
LARGEST_LICENSE = 16 * 1024 * 1024
_CONTROLS = frozenset(range(32)) - {9, 10, 12, 13}
_MOST_CONTROLS = 0.01  # of a list of tokens: a few tokens are control characters, weights are full of them
_LATIN = bytes(range(3))  # high bytes of Latin letters in UTF-16; as half-precision numbers, next to nothing
_ASCII = bytes(range(128))
_MOSTLY = 0.9
# of sentencepiece's ModelProto: pieces, trainer, normalizer, self test, denormalizer; all are messages
_PROTO_FIELDS, _PIECES = frozenset(range(1, 6)), 1
_LARGEST_PIECE, _LARGEST_SETTING = 4096, 2 * 1024 * 1024


def settle_side_files(files: Sequence[CheckpointFile]) -> list[CheckpointFile]:
    """Leave out the side files whose content may not be carried over, and licenses that differ only in case.

    Args:
        files: classified by name.
    """
    settled, licenses = [], set[str]()
    for file in files:
        if file.action != LEAVE_OUT and (reason := _reason(file)):
            file = file.left_out(reason)
        if file.action != LEAVE_OUT and file.role == LICENSE:
            if file.output.casefold() in licenses:  # a case-blind disk would take the two for one
                file = file.left_out("a license whose name differs from another's only in case")
            licenses.add(file.path.casefold())
        settled.append(file)
    return settled


def is_text(content: bytes) -> bool:
    """Whether it is UTF-8 without control characters."""
    return _is_utf8(content) and not _CONTROLS & set(content)


def is_token_list(content: bytes) -> bool:
    """Whether it is UTF-8 text, one token a line, of which a few may be control characters."""
    return _is_utf8(content) and _share(content, bytes(_CONTROLS)) <= _MOST_CONTROLS


def is_license_text(content: bytes) -> bool:
    """Whether it is text in UTF-8, UTF-16 (mostly Latin letters) or an encoding of single bytes."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError:
            return False
        high_bytes = text.encode("utf-16-be")[::2]
        return not _CONTROLS & set(map(ord, set(text))) and _share(high_bytes, _LATIN) >= _MOSTLY
    return is_text(content) or (not _CONTROLS & set(content) and _share(content, _ASCII) >= _MOSTLY)


def is_sentencepiece(content: bytes) -> bool:
    """Whether it is a sentencepiece model to the last byte: protobuf fields of its kinds and usual sizes."""
    position, pieces = 0, 0
    while position < len(content):
        tag, position = _number(content, position)
        size, position = _number(content, position)
        field, wire_type = tag >> 3, tag & 7
        largest = _LARGEST_PIECE if field == _PIECES else _LARGEST_SETTING
        if wire_type != 2 or field not in _PROTO_FIELDS or size > largest:
            return False
        pieces += field == _PIECES
        position += size
    return pieces > 0 and position == len(content)


def _reason(file: CheckpointFile) -> str:
    """Why a side file is left out for its content; "" where it is not."""
    if file.role not in (CONFIGURATION_FILE, TOKENIZER, LICENSE):
        return ""
    if file.bytes > (LARGEST_LICENSE if file.role == LICENSE else LARGEST_SIDE_FILE):
        return f"too large for a {file.role}"
    is_model = PurePosixPath(file.path).suffix == ".model"
    if not is_model and file.role != LICENSE:
        return ""
    try:
        content = file.location.read_bytes()
    except OSError:
        return ""  # whoever wants to write it will say so
    if file.role == LICENSE:
        return "" if is_license_text(content) else "a license that is no plain text; put it there yourself"
    known = is_sentencepiece(content) or is_text(content)  # tiktoken's models are text
    return "" if known else "no tokenizer model of a known kind; it could be weights"


def _share(content: bytes, some: bytes) -> float:
    """The share of its bytes that are some of the given ones."""
    return (len(content) - len(content.translate(None, some))) / max(1, len(content))


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _number(content: bytes, position: int) -> tuple[int, int]:
    """A protobuf number and where the next byte is; a broken one reads as a number too large for anything."""
    value = shift = 0
    while position < len(content) and shift < 64:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    return 1 << 64, position
