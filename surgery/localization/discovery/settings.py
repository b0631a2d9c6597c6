"""Settings of `scan` that `localize` does not have. Imports no torch: `--help` reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.errors import UsageError
from surgery.options import check_settings, setting

SEQUENTIAL = "sequential test"
TRAINING_IMAGES = "training images"


@dataclass(frozen=True)
class ScanSettings:
    """Which prompts `scan` looks at first, and when it stops looking at one.

    - miss: see `surgery.localization.discovery.sequential`.
    - near: see `surgery.localization.discovery.hashes`.
    """

    sequential: bool = setting(
        True, "look at all seeds of every prompt", group=SEQUENTIAL, flag="--all-seeds"
    )
    miss: float = setting(
        0.01,
        "the chance to stop early on a prompt that scores the threshold",
        group=SEQUENTIAL,
        metavar="P",
        least=0,
    )
    near: int = setting(
        10,
        "bits out of 64 in which the hashes of near-duplicates may differ",
        group=TRAINING_IMAGES,
        metavar="BITS",
        least=0,
    )
    only_duplicated: bool = setting(
        False, "scan only captions of images that have near-duplicates", group=TRAINING_IMAGES
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.miss < 1:
            raise UsageError("miss", f"{self.miss} is no chance", "give a number between 0 and 1")

    def as_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return asdict(self)
