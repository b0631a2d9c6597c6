"""The numbers that a verdict used, as cells of the page's table: one line for each prompt and attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NOTHING, TWIN = "–", "twin"


@dataclass(frozen=True)
class Column:
    """One column: its head, what it means in one clause, and its cell from an attack's entry."""

    head: str
    meaning: str
    cell: Callable[[dict[str, Any]], str]


@dataclass(frozen=True)
class Line:
    """One line of the table: an attack with its budget, and its cells."""

    name: str
    cells: list[str]


def judged_columns(document: dict[str, Any]) -> tuple[Column, ...]:
    """The columns; that of the twin only where there is one."""
    return tuple(column for column in COLUMNS if column.head != TWIN or TWIN in document["models"])


def judged_rows(document: dict[str, Any], entry: dict[str, Any]) -> list[Line]:
    """The lines of one prompt: one for each attack that was made; one empty line where there was none."""
    columns = judged_columns(document)
    lines = [
        Line(f"{name} {document['attacks'][name]['effort']}", [column.cell(attack) for column in columns])
        for name, attack in entry["attacks"].items()
    ]
    return lines or [Line(NOTHING, [NOTHING] * len(columns))]


def _score(side: str) -> Callable[[dict[str, Any]], str]:
    return lambda attack: f"{attack[side]['score']:.2f}" if attack[side] else NOTHING


def _judged(name: str, form: str = ".2f") -> Callable[[dict[str, Any]], str]:
    def cell(attack: dict[str, Any]) -> str:
        value = (attack["judged"] or {}).get(name)
        return NOTHING if value is None else f"{value:{form}}"

    return cell


def _controls(attack: dict[str, Any]) -> str:
    judged = attack["judged"]
    return f"{judged['controls_at_or_above']}/{judged['controls']}" if judged else NOTHING


COLUMNS = (
    Column("SOURCE", "the attack's score on it, the 90th percentile over pictures", _score("source")),
    Column("PATCHED", "the same", _score("patched")),
    Column(TWIN, "the same on a model that never saw the image", _score(TWIN)),
    Column("highest", "the most alike of all pictures that it drew from PATCHED", _judged("highest")),
    Column("d", "half of what the memory is worth in SOURCE", _judged("margin")),
    Column("controls ≥", "images that no model saw and that score as high as PATCHED does", _controls),
    Column(
        "p hidden",
        "of that rank by chance, corrected for all prompts; small: hidden",
        _judged("corrected_p_value", ".3g"),
    ),
    Column(
        "p gone",
        "of so low a score if half of the memory were left; small: at most half is",
        _judged("removal_p_value", ".3g"),
    ),
)
