"""The JSON of a safetensors header, judged as the safetensors library judges it.

Python's parser takes what the library's does not (NaN, half a surrogate pair, any depth); the differences are
made good here. A name that stands twice is refused, although the library keeps the last: a second tensor
could hide behind the first.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from surgery.checkpoint.formats.json_text import check_parsed_size

_DEEPEST_NESTING = 127  # the library's JSON parser gives up at 128 levels


def parse_header_json(raw: bytes) -> dict[str, Any]:
    """The object that a header holds.

    Raises:
        ValueError, RecursionError: it is not JSON, no object, or its parse would fill the memory.
    """
    check_parsed_size(raw)
    document = json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=_unique_pairs,
        parse_int=_parse_integer,
        parse_float=_parse_float,
        parse_constant=_refuse_constant,
    )
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    _check_nesting(document, 1)
    if b"\\u" in raw:  # only an escape can make half a surrogate pair: UTF-8 has none
        _check_text(document)
    return document


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:100]!r} stands twice")
            seen.add(name)
    return unique


def _parse_integer(text: str) -> int | float:
    # JSON knows no -0 among the integers, and the library reads numbers beyond 64 bits as floating point
    if text == "-0" or len(text) > 20:
        return _parse_float(text)
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _check_nesting(value: Any, depth: int) -> None:
    if depth > _DEEPEST_NESTING:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for inner in value:
        if isinstance(inner, (dict, list)):
            _check_nesting(inner, depth + 1)


def _check_text(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii():
            value.encode("utf-8")  # a UnicodeEncodeError is a ValueError
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name)
            _check_text(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_text(inner)
