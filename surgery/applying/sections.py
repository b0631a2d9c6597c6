"""The sections of a recipe, as frozen dataclasses: their keys, types and defaults.

`[localize]`, `[harden]` and `[audit]` also take every setting of the command of that name, underscores for
dashes. What each key means for people stands in `surgery.formats.applying`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from surgery.applying.strict import FLATTENED
from surgery.auditing.settings import GATES, AuditSettings
from surgery.errors import UsageError
from surgery.hardening.settings import HardenSettings
from surgery.localization.settings import SCORE_PROMPTS, LocalizeSettings

NO_GATE = "none"
REQUIRED = (*GATES, NO_GATE)


@dataclass(frozen=True)
class ModelSection:
    """Which model, and which of its files."""

    source: str | None = None
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class CorpusSection:
    """Which prompts to check, their training images, and ordinary prompts to compare with."""

    prompts: str | None = None
    column: str | None = None
    limit: int | None = None
    images: str | None = None
    ordinary: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError("limit", f"{self.limit} is less than 1", "give at least 1")


@dataclass(frozen=True)
class CalibrateSection:
    """How thresholds are measured, or the file that has them already."""

    file: str | None = None
    score_prompts: int = SCORE_PROMPTS

    def __post_init__(self) -> None:
        if self.score_prompts < 2:
            raise UsageError("score_prompts", f"{self.score_prompts} is less than 2", "give at least 2")


@dataclass(frozen=True)
class LocalizeSection:
    """How neurons are found; or the file that has them, for models that nothing here can localize."""

    neurons: str | None = None
    settings: LocalizeSettings = field(default_factory=LocalizeSettings, metadata=FLATTENED)


@dataclass(frozen=True)
class AggregateSection:
    """How the prompts' neurons become one set; see `surgery.localize`."""

    minimum_prompts: int = 1
    most_frequent: int | None = None
    per_layer: bool = False

    def __post_init__(self) -> None:
        for name in ("minimum_prompts", "most_frequent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(name, f"{value} is less than 1", "give at least 1")


@dataclass(frozen=True)
class HardenSection:
    """Training of what zeroed rows only hide. Without this section nothing is trained."""

    data: str | None = None
    similarity: str | None = None
    keep_going: bool = False
    settings: HardenSettings = field(default_factory=HardenSettings, metadata=FLATTENED)


@dataclass(frozen=True)
class PatchSection:
    """What `patch` is told; see `surgery.patch`."""

    any_model: bool = False
    keep: tuple[str, ...] = ()
    follow_links: bool = False
    strict: bool = False
    sha256: bool = False


@dataclass(frozen=True)
class AuditSection:
    """The audit and its gate. `audit = false` at the top says that there is to be none."""

    require: str = "attack"
    only_memorized: bool = False
    control_images: str | None = None
    twin: str | None = None
    base: str | None = None
    clip: str | None = None
    fid_reference: str | None = None
    fid_features: str | None = None
    max_forwards: int | None = None
    settings: AuditSettings = field(default_factory=AuditSettings, metadata=FLATTENED)

    def __post_init__(self) -> None:
        if self.require not in REQUIRED:
            raise UsageError("require", f"there is no {self.require!r}", f"choose from {', '.join(REQUIRED)}")
        if (self.fid_reference is None) != (self.fid_features is None):
            raise UsageError("fid_reference", "goes with fid_features", "give both or neither")


@dataclass(frozen=True)
class CardSection:
    """The model card; further metadata stands in `[card.fields]`."""

    file: str | None = None
    base_model: str | None = None


@dataclass(frozen=True)
class PublishSection:
    """Where the folder is meant to go. Nothing is sent: that is `surgery upload`."""

    repo_id: str | None = None
