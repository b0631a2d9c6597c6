"""Does a document hold the fields that its format describes, and no other? Another one can hide captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from surgery.formats.fields import FormatField

_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "list": (list,),
}


def strange_fields(document: Any, fields: Sequence[FormatField]) -> Iterator[str]:
    """Every field of a document that its format does not describe, or describes as another type.

    Args:
        document: a JSON value.
        fields: the format's, from `surgery.formats`.
    """
    yield from _strange(document, "", {field.path: field.type for field in fields})


def _strange(value: Any, path: str, types: dict[str, str]) -> Iterator[str]:
    if path in types:
        if not _has_type(value, types[path]):
            yield f"{path} is no {types[path]}"
            return
        if types[path] == "any":
            return
    elif path and not _leads_on(path, types):
        yield f"{path} is no field of it"
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            exact, star = f"{path}.{name}".lstrip("."), f"{path}.*".lstrip(".")
            by_star = not _leads_on(exact, types) and _leads_on(star, types)
            yield from _strange(inner, star if by_star else exact, types)
    elif isinstance(value, list) and _leads_on(f"{path}[]", types):
        for inner in value:
            yield from _strange(inner, f"{path}[]", types)


def _leads_on(path: str, types: dict[str, str]) -> bool:
    return path in types or any(other.startswith((f"{path}.", f"{path}[]")) for other in types)


def _has_type(value: Any, kind: str) -> bool:
    if kind.endswith(" or null"):
        return value is None or _has_type(value, kind.removesuffix(" or null"))
    if kind.startswith("list of "):
        return isinstance(value, list) and all(_has_type(one, kind.removeprefix("list of ")) for one in value)
    if kind == "any":
        return True
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, _KINDS[kind])
