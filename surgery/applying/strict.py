"""Dataclasses from TOML tables, strictly: every key known, every value of its field's type.

A field with the metadata `FLATTENED` holds a settings class whose keys stand in the same table: `[audit]` has
keys of its own and every setting of `surgery audit`, side by side. What a settings class refuses by itself (a
number out of its range, two settings that do not go together) is said with the section's name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

from surgery.errors import UsageError

Section = TypeVar("Section")
FLATTENED = {"flattened": True}  # metadata of a field whose keys stand in the section's own table


def keys_of(section: type) -> dict[str, str]:
    """Every key of a section -> the annotation of its field, those of flattened settings among them."""
    known: dict[str, str] = {}
    for one in fields(section):
        inner = settings_of(one)
        known |= keys_of(inner) if inner else {one.name: str(one.type)}
    return known


def build(section: type[Section], table: Any, where: str) -> Section:
    """A section from a TOML table.

    Args:
        section: a dataclass.
        table: of the TOML document.
        where: what errors call it: the file and the section.

    Raises:
        UsageError: naming `where`, the key, and what would be right.
    """
    if not isinstance(table, dict):
        raise UsageError(where, "is not a table", f"write [{where.rpartition('[')[2].rstrip(']')}]")
    known = keys_of(section)
    refuse_unknown_keys(table, known, where)
    for key, value in table.items():
        if not _has_type(value, known[key]):
            raise UsageError(
                f"{where} {key}", f"{value!r} is not of type {_for_people(known[key])}", "correct the value"
            )
    return _made(section, {key: _converted(value, known[key]) for key, value in table.items()}, where)


def refuse_unknown_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise a `UsageError` for the first key of `table` that is not among `known`."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1)
            way_out = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise UsageError(where, f"unknown key {key!r}", way_out)


def settings_of(one: Field[Any]) -> Any:
    """The settings class of a flattened field; None for a key of the section's own."""
    return one.default_factory if one.metadata.get("flattened") else None


def _made(section: type[Section], values: Mapping[str, Any], where: str) -> Section:
    given: dict[str, Any] = {}
    for one in fields(section):  # type: ignore[arg-type]
        inner = settings_of(one)
        if inner:
            own = keys_of(inner)
            given[one.name] = _made(inner, {key: values[key] for key in own if key in values}, where)
        elif one.name in values:
            given[one.name] = values[one.name]
    try:
        return section(**given)
    except UsageError as error:
        raise UsageError(f"{where} {error.thing}", error.cause, error.way_out) from None


def _words(annotation: str) -> list[str]:
    return annotation.replace(" ", "").split("|")


def _has_type(value: Any, annotation: str) -> bool:
    """Whether a TOML value fits a field annotated so (annotations are strings here: `float | None`)."""
    for word in _words(annotation):
        if word.startswith("tuple["):
            inner = word.removeprefix("tuple[").partition(",")[0]
            if isinstance(value, list) and all(_is(item, inner) for item in value):
                return True
        elif _is(value, word):
            return True
    return False


def _is(value: Any, word: str) -> bool:
    if isinstance(value, bool):
        return word == "bool"
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str}
    return word in kinds and isinstance(value, kinds[word])


def _converted(value: Any, annotation: str) -> Any:
    """Lists become tuples, whole numbers floats where a float is meant: equal recipes make equal settings."""
    decimal = "float" in annotation and "int" not in annotation
    if isinstance(value, list):
        return tuple(float(item) if decimal else item for item in value)
    return float(value) if decimal and isinstance(value, int) else value


def _for_people(annotation: str) -> str:
    names = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}
    shown = []
    for word in _words(annotation):
        inner = word.removeprefix("tuple[").partition(",")[0]
        if word != "None":
            shown.append(f"list of {names.get(inner, inner)}" if word != inner else names.get(word, word))
    return " or ".join(shown)
