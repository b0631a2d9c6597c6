"""A recipe: the intent of one operation, as TOML that lies in a repository and is read in reviews.

It says which model, which corpus, and how each step is to be done; it holds no prompt. Everything in it is
checked when it is read: unknown keys are errors that suggest the right one, in every section, and settings
that make no sense are refused before any work. Relative paths count from the recipe's folder; `~` and
backslashes are understood. `docs/recipes.md` has every key.

`surgery.recipe/1`, which knew `[model]`, `[corpus]`, `[localize]` and `[aggregate]` alone, is still read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.applying.sections import (
    AggregateSection,
    AuditSection,
    CalibrateSection,
    CardSection,
    CorpusSection,
    HardenSection,
    LocalizeSection,
    ModelSection,
    PatchSection,
    PublishSection,
)
from surgery.applying.strict import build, refuse_unknown_keys
from surgery.errors import UsageError
from surgery.files import absolute, expanded

FORMAT, OLD_FORMAT = "surgery.recipe/2", "surgery.recipe/1"
SECTIONS: Mapping[str, type] = {
    "model": ModelSection,
    "corpus": CorpusSection,
    "calibrate": CalibrateSection,
    "localize": LocalizeSection,
    "aggregate": AggregateSection,
    "harden": HardenSection,
    "patch": PatchSection,
    "audit": AuditSection,
    "card": CardSection,
    "publish": PublishSection,
}
OPTIONAL = ("harden", "audit")  # what is not done unless the recipe has the section
OLD_SECTIONS = ("model", "corpus", "localize", "aggregate")
CARD_FIELDS = "fields"


@dataclass(frozen=True)
class Recipe:
    """A read recipe.

    Attributes:
        harden, audit: None where the recipe has no such section.
        audit_declined: whether the recipe says `audit = false`: a decision, where a missing section is none.
        card_fields: further metadata of the model card, by name.
        folder: where relative paths count from.
        name: of the file.
    """

    description: str = ""
    model: ModelSection = field(default_factory=ModelSection)
    corpus: CorpusSection = field(default_factory=CorpusSection)
    calibrate: CalibrateSection = field(default_factory=CalibrateSection)
    localize: LocalizeSection = field(default_factory=LocalizeSection)
    aggregate: AggregateSection = field(default_factory=AggregateSection)
    harden: HardenSection | None = None
    patch: PatchSection = field(default_factory=PatchSection)
    audit: AuditSection | None = None
    audit_declined: bool = False
    card: CardSection = field(default_factory=CardSection)
    card_fields: Mapping[str, Any] = field(default_factory=dict)
    publish: PublishSection = field(default_factory=PublishSection)
    folder: Path = Path()
    name: str = "recipe"

    def path(self, written: str) -> Path:
        """A path as the recipe writes it, made absolute."""
        return absolute(self.folder / expanded(written.replace("\\", "/"))).resolve()


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: the file is missing or no TOML, a key is unknown (a near one is suggested), a value has
            the wrong type, a setting makes no sense, or two sections contradict each other.
    """
    path = expanded(path)
    document = _document(path)
    is_old = _is_old(document.pop("format", None), path)
    refuse_unknown_keys(document, ["format", "description", *SECTIONS], str(path))
    if is_old and (new := [name for name in SECTIONS if name in document and name not in OLD_SECTIONS]):
        raise UsageError(path, f"[{new[0]}] is not of {OLD_FORMAT}", f'write format = "{FORMAT}"')
    description = document.pop("description", "")
    if not isinstance(description, str):
        raise UsageError(path, "its description is not text", "put it in quotes")
    read: dict[str, Any] = {}
    if document.get("audit") is False:
        del document["audit"]
        read["audit_declined"] = True
    if isinstance(document.get("card"), dict):
        read["card_fields"] = _card_fields(document["card"].pop(CARD_FIELDS, {}), path)
    for name, section in SECTIONS.items():
        if name in document or name not in OPTIONAL:
            read[name] = build(section, document.get(name, {}), f"{path} [{name}]")
    _refuse_contradiction(document, path)
    return Recipe(description=description, folder=path.resolve().parent, name=path.name, **read)


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(path, "no such recipe", "check the path") from None
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        way_out = "see the recipes folder for one"
        if "\\" in str(error) or "escape" in str(error).lower():
            way_out = "write paths with / or in 'single quotes': \\ has a meaning of its own in \"...\""
        raise UsageError(path, f"cannot be read as TOML ({error})", way_out) from None


def _is_old(tag: Any, path: Path) -> bool:
    if tag not in (FORMAT, OLD_FORMAT):
        raise UsageError(path, "is no recipe of this version", f'start it with format = "{FORMAT}"')
    return bool(tag == OLD_FORMAT)


def _card_fields(fields: Any, path: Path) -> Mapping[str, Any]:
    where = f"{path} [card.{CARD_FIELDS}]"
    if not isinstance(fields, dict):
        raise UsageError(where, "is not a table", f"write [card.{CARD_FIELDS}] and metadata below")
    for name, value in fields.items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float) for item in items):
            raise UsageError(f"{where} {name}", "is neither text, number nor a list", "correct the value")
    return fields


def _refuse_contradiction(document: Mapping[str, Any], path: Path) -> None:
    """Neurons that are given, and settings for finding them, cannot both be meant."""
    localize = document.get("localize")
    if not isinstance(localize, dict) or "neurons" not in localize:
        return
    without_use = [f"[localize] {key}" for key in localize if key != "neurons"]
    without_use += [f"[{name}]" for name in ("calibrate", "aggregate") if name in document]
    if without_use:
        raise UsageError(
            f"{path} [localize] neurons",
            f"are given, so that {without_use[0]} has no use",
            "drop one of them",
        )
