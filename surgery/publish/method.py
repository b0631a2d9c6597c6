"""How the neurons were found and how the audit was made, as a manifest may say it: numbers and known words.

Taken are named settings, thresholds and versions of `neurons.json` and `audit.json`, and nothing else: both
may hold prompts. A text is taken only where it looks like the name of a method or a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from surgery.errors import GateError
from surgery.neurons import read_neurons, read_neurons_document

LOCALIZATION_SETTINGS = (
    "criterion", "strategy", "seeds", "seed", "confirm_seeds", "confirm_seed", "inference_steps",
    "step_index", "guidance", "projection",
)  # fmt: skip
AUDIT_SETTINGS = (
    "seeds", "more_seeds", "first_seed", "steps", "guidance", "tolerance", "attack_seeds", "controls",
    "canaries", "alpha", "correction",
)  # fmt: skip
THRESHOLDS = ("gate", "selection", "refinement")
OUTCOMES = ("localized", "not_memorized", "unresolved")
_WORD = re.compile(r"[\w.+-]{1,40}")


def localization_method(neurons: str | Path | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a `neurons.json` says of its search; None where there is none, or it was written by hand.

    Raises:
        UsageError: the file cannot be read, or is no `neurons.json`.
    """
    if neurons is None:
        return None
    document = neurons if isinstance(neurons, Mapping) else read_neurons_document(neurons)
    if not isinstance(document.get("settings"), Mapping):
        return None
    return {
        "settings": _some(document["settings"], LOCALIZATION_SETTINGS),
        "thresholds": _some(document.get("thresholds"), THRESHOLDS),
        "calibration_prompts": _some(document.get("calibration"), ("prompts",)).get("prompts"),
        "outcomes": _some(document.get("outcomes"), OUTCOMES),
        "computes_in": _plain(document.get("computes_in")),
        "versions": _versions(document.get("versions")),
    }


def audit_method(document: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What an `audit.json` says of how it was made; None where it says nothing."""
    if document is None or not isinstance(document.get("settings"), Mapping):
        return None
    similarity = document.get("similarity")
    return {
        "settings": _some(document["settings"], AUDIT_SETTINGS),
        "similarity": _some(similarity, ("name",)).get("name"),
        "threshold": _some(similarity, ("threshold",)).get("threshold"),
        "versions": _versions(document.get("versions")),
    }


def check_same_neurons(neurons: str | Path | None, manifest: Mapping[str, Any]) -> None:
    """Refuse a `neurons.json` that is not about the rows that are zero.

    Raises:
        GateError: its rows are others.
    """
    if neurons is None:
        return
    if read_neurons(neurons).as_json() != manifest["neurons"]["layers"]:
        raise GateError(neurons, "is about other neurons than the manifest", "give the file that was patched")


def phrases(method: Any) -> Iterator[str]:
    """Every text in a recorded method that is no word: a place where a caption may hide."""
    if isinstance(method, Mapping):
        for name, value in method.items():
            yield from phrases(str(name))
            yield from phrases(value)
    elif isinstance(method, str) and not _WORD.fullmatch(method):
        yield method


def _some(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    found = {name: _plain(value[name]) for name in names if name in value}
    return {name: one for name, one in found.items() if one is not None}


def _plain(value: Any) -> Any:
    """A number, or a word without a space in it; else None."""
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _versions(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {
        str(name): version
        for name, version in sorted(value.items())
        if _WORD.fullmatch(str(name)) and isinstance(version, str) and _WORD.fullmatch(version)
    }
