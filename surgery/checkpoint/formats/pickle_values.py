"""Stand-ins for the values of a pickle program while it is rehearsed (`pickle_program`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_LARGEST_NAME = 2**31  # of numbers as names; larger ones can be made to collide in a dictionary


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a program names."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers; `bytes` is its size."""

    bytes: int


@dataclass(slots=True, eq=False)
class Held:
    """A list, a dictionary, or what a call returned.

    Attributes:
        kind: `list`, `dict`, `ordered`, `counter`, `tensor`, `dtype`, `stand-in` or `other`.
        length: its number of items.
        names: of a list: its items, if every one can be a dictionary's name, else None.
        has_pairs: of a list: whether every item is a pair that starts with such a name.
        first: the first item of a list, if it can be a name.
    """

    kind: str
    length: int = 0
    names: list[Any] | None = field(default_factory=list)
    has_pairs: bool = True
    first: Any = None


def is_name(value: Any) -> bool:
    """Whether hashing the value is quick and harmless: text, a small number, a class, or a flat tuple."""
    return _is_plain(value) or (isinstance(value, tuple) and len(value) <= 8 and all(map(_is_plain, value)))


def pairs_with_name(item: Any) -> bool:
    """Whether an item is a pair whose first part can be a dictionary's name."""
    if isinstance(item, tuple):
        return len(item) == 2 and is_name(item[0])
    return isinstance(item, Held) and item.kind == "list" and item.length == 2 and item.first is not None


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < _LARGEST_NAME
    return value is None or isinstance(value, (str, float, Global))
