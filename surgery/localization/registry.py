"""The criteria and detectors there are, by name: one line each, and all that makes a new one known.

`module:class`, so that settings, help and recipes know the names without importing torch. Everything else
about one stands in its class: see `surgery.localization.criteria` for what it has to say.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.localization.criteria import Criterion, Detector

# What `localize` can work with; each is a detector for `scan` as well.
CRITERIA: dict[str, str] = {
    "seeds-diverge": "surgery.localization.seeds_diverge:SeedsDiverge",
    "noise-changed": "surgery.localization.criteria:NoiseChanged",
    "target-gone": "surgery.localization.target_gone:TargetGone",
}
# What `scan` can work with besides.
DETECTORS: dict[str, str] = {
    "noise-magnitude": "surgery.localization.criteria:NoiseMagnitude",
}
# Its word agrees best with what pictures show afterwards (benchmarks/criteria.py).
DEFAULT = "target-gone"
# Few seeds tell most of its score, a mean over pairs; of a highest likeness they tell little.
DEFAULT_DETECTOR = "seeds-diverge"


def criterion(name: str) -> Criterion:
    """A criterion of `CRITERIA`."""
    return _made(CRITERIA[name])


def detector(name: str) -> Detector:
    """A detector: one of `CRITERIA` or of `DETECTORS`."""
    return _made(detector_places()[name])


def detector_places() -> dict[str, str]:
    """Name -> place of everything that can score a prompt."""
    return {**CRITERIA, **DETECTORS}


def _made(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)()
