"""JSON from files that anybody may have written: bounded in size and in what its parse can take.

Python's values take far more memory than their text: `[],` is three bytes, and a list of 64. Sixty megabytes
of it are a gigabyte and a half. What the parse can take at most is therefore counted from the text first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.checkpoint.formats.regular_file import read_regular
from surgery.errors import UsageError

MAX_CONFIGURATION_BYTES = 16 * 1024 * 1024  # real ones take a few kilobytes
MAX_INDEX_BYTES = 32 * 1024 * 1024  # 100 bytes per tensor: more than 300,000 tensors
# A tokenizer of 256,000 words and 600,000 merges takes 200 MB by this count, a header of 100,000 tensors 150.
MAX_PARSED_BYTES = 320_000_000
# measured on CPython 3.11, with their share of the list or dictionary that holds them
_VALUE_BYTES = 72
_NAME_BYTES = 200
_VALUE_STARTS = (b",", b"[", b"{")
_ERROR_LENGTH = 300


def read_small_json(path: Path, shown: str, limit: int, way_out: str = "repair it") -> dict[str, Any]:
    """The JSON object in a regular file of at most `limit` bytes.

    Args:
        path: the file; a symbolic link is followed.
        shown: how messages call it.
        limit: the most bytes it may take; `MAX_CONFIGURATION_BYTES`, `MAX_INDEX_BYTES`.
        way_out: what messages advise.

    Raises:
        UsageError: no regular file, too large, not UTF-8, not JSON, or no object.
    """
    document = parse_json(read_regular(path, shown, limit), shown, way_out)
    if not isinstance(document, dict):
        raise UsageError(shown, "is not a JSON object", way_out)
    return document


def parse_json(raw: bytes, shown: str, way_out: str) -> Any:
    """The JSON value of UTF-8 text.

    Raises:
        UsageError: it is not JSON, or its parse would fill the memory.
    """
    try:
        check_parsed_size(raw)
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(shown, f"is not valid JSON ({shortened(str(error))})", way_out) from None


def check_parsed_size(raw: bytes) -> None:
    """Refuse text whose parse could take more than `MAX_PARSED_BYTES`.

    Raises:
        ValueError: it could.
    """
    # Every value follows one of the three signs, every name is followed by a colon. The same signs within
    # strings are counted too: the count can only be too high.
    values = sum(raw.count(sign) for sign in _VALUE_STARTS)
    if values * _VALUE_BYTES + raw.count(b":") * _NAME_BYTES > MAX_PARSED_BYTES:
        raise ValueError(f"it has some {values} values, more than any checkpoint's")


def shortened(text: str) -> str:
    """Text from a file on one line, cut to what a person reads: names can take megabytes."""
    text = " ".join(text[: 4 * _ERROR_LENGTH].split())
    return text if len(text) <= _ERROR_LENGTH else f"{text[:_ERROR_LENGTH]}..."
