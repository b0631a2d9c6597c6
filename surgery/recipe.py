"""A recipe: the intent of one operation, as TOML that lies in a repository and is read in reviews.

A recipe says which model, which corpus, how to localize and how to join the prompts' neurons; it holds no
prompt. Unknown keys are errors that suggest the right one. Relative paths count from the recipe's folder.

    format = "surgery.recipe/1"
    description = "free text"

    [model]
    source = "path, or Hub id"        # may be left out and given on the command line
    revision = "commit"               # for a Hub id
    variant = "fp16"

    [corpus]
    prompts = "captions.txt"          # may be left out and given on the command line
    column = "caption"
    ordinary = "ordinary.txt"         # captions to calibrate on

    [localize]                        # any setting of `surgery localize`, underscores for dashes
    criterion = "seeds-diverge"

    [aggregate]
    minimum_prompts = 1
    most_frequent = 10
    per_layer = false
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from surgery.errors import UsageError
from surgery.files import absolute, expanded

FORMAT = "surgery.recipe/1"
Section = TypeVar("Section")


@dataclass(frozen=True)
class ModelSection:
    """Which model, and which of its files."""

    source: str | None = None
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class CorpusSection:
    """Which prompts to check, and which ordinary ones to calibrate on."""

    prompts: str | None = None
    column: str | None = None
    ordinary: str | None = None


@dataclass(frozen=True)
class AggregateSection:
    """How the prompts' neurons become one set; see `surgery.localize`."""

    minimum_prompts: int = 1
    most_frequent: int | None = None
    per_layer: bool = False


@dataclass(frozen=True)
class Recipe:
    """A read recipe.

    Attributes:
        localize: settings by name, for `LocalizeSettings`; checked when they are used.
        folder: where relative paths count from.
    """

    description: str = ""
    model: ModelSection = field(default_factory=ModelSection)
    corpus: CorpusSection = field(default_factory=CorpusSection)
    aggregate: AggregateSection = field(default_factory=AggregateSection)
    localize: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def path(self, written: str) -> Path:
        """A path as the recipe writes it, made absolute."""
        return absolute(self.folder / expanded(written)).resolve()


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: the file is missing or no TOML, a key is unknown (a near one is suggested), or a value has
            the wrong type.
    """
    path = expanded(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(path, "no such recipe", "check the path") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            path, f"cannot be read as TOML ({error})", "see the recipes folder for one"
        ) from None
    if document.pop("format", None) != FORMAT:
        raise UsageError(path, "is no recipe of this version", f'start it with format = "{FORMAT}"')
    sections = {"model": ModelSection, "corpus": CorpusSection, "aggregate": AggregateSection}
    read: dict[str, Any] = {}
    refuse_unknown_keys(document, ["description", "localize", *sections], str(path))
    for name, section in sections.items():
        read[name] = build(section, document.get(name, {}), f"{path} [{name}]")
    localize = document.get("localize", {})
    if not isinstance(localize, dict):
        raise UsageError(f"{path} [localize]", "is not a table", "write [localize] and its keys below")
    description = document.get("description", "")
    if not isinstance(description, str):
        raise UsageError(path, "its description is not text", "put it in quotes")
    return Recipe(description=description, localize=localize, folder=path.resolve().parent, **read)


def build(section: type[Section], table: Any, where: str) -> Section:
    """A dataclass from a TOML table, strictly: every key known, every value of its field's type.

    Raises:
        UsageError: naming `where`, the key, and what would be right.
    """
    if not isinstance(table, dict):
        raise UsageError(where, "is not a table", "write a [section] with keys below")
    known = {entry.name: str(entry.type) for entry in fields(section)}  # type: ignore[arg-type]
    refuse_unknown_keys(table, known, where)
    for key, value in table.items():
        if not _has_type(value, known[key]):
            raise UsageError(f"{where} {key}", f"{value!r} is not of type {known[key]}", "correct the value")
    return section(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    )


def refuse_unknown_keys(table: Mapping[str, Any], known: Any, where: str) -> None:
    """Raise a `UsageError` for the first key of `table` that is not among `known`."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1)
            way_out = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise UsageError(where, f"unknown key {key!r}", way_out)


def _has_type(value: Any, annotation: str) -> bool:
    """Whether a TOML value fits a field annotated so (annotations are strings here: `float | None`)."""
    for word in annotation.replace(" ", "").split("|"):
        if word == "bool" and isinstance(value, bool):
            return True
        if word == "int" and isinstance(value, int) and not isinstance(value, bool):
            return True
        if word == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
            return True
        if word == "str" and isinstance(value, str):
            return True
        if word.startswith("tuple[str") and isinstance(value, list):
            return all(isinstance(item, str) for item in value)
    return False
