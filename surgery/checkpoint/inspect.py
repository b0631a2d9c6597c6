"""Inspect: say what a checkpoint is made of, and what `patch` would do with each file. Reads headers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.edit.refusals import patchable_copies, the_denoiser
from surgery.checkpoint.names.denoisers import check_configuration
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.family import checkpoint_family
from surgery.checkpoint.survey.roles import PICKLE, CheckpointFile
from surgery.checkpoint.survey.source import Source, locate
from surgery.checkpoint.survey.survey import survey
from surgery.errors import UsageError
from surgery.neurons import NeuronSet


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect_checkpoint` found.

    Attributes:
        source: where the checkpoint is and how it is called.
        kind: `pipeline folder`, `component folder` or `single file`.
        family: `SD1`, `SDXL base, inpainting`, `PixArt`, `unknown (...)`, ...
        files: every file with its role, what `patch` would do with it, and why it would be left out.
        copies: every copy of the denoiser, with the place of each value layer.
        refusal: why `patch` would refuse the checkpoint, or None.
        warnings: what the user should know.
    """

    source: Source
    kind: str
    family: str
    files: tuple[CheckpointFile, ...]
    copies: tuple[DenoiserCopy, ...]
    refusal: str | None
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The inspection as a JSON document."""
        return {
            "name": self.source.name,
            "revision": self.source.revision,
            "kind": self.kind,
            "family": self.family,
            "refusal": self.refusal,
            "warnings": list(self.warnings),
            "copies": [_copy_json(copy) for copy in self.copies],
            "files": [
                {
                    "path": file.path,
                    "bytes": file.bytes,
                    "role": file.role,
                    "action": file.action,
                    "reason": file.reason or None,
                    "output": file.output or None,
                }
                for file in self.files
            ],
        }


def inspect_checkpoint(checkpoint: str | Path, *, revision: str | None = None) -> Inspection:
    """Say what a checkpoint is made of. Weight headers are read, weights are not; pickles are not opened.

    Args:
        checkpoint: a folder, a single file, or a Hub id in the local cache.
        revision: for a Hub id: branch, tag or commit.

    Raises:
        UsageError: it is no checkpoint, or a weight file or index that a pipeline would load is broken.
    """
    surveyed = survey(locate(checkpoint, revision))
    warnings: list[str] = []
    refusal = None
    family = checkpoint_family(surveyed)
    try:
        component = the_denoiser(surveyed)
        if component in surveyed.configurations:
            shown = f"{component}/config.json".lstrip("/")
            warnings += check_configuration(surveyed.configurations[component], shown)
        surveyed, _ = patchable_copies(surveyed, component, NeuronSet())
    except UsageError as error:
        refusal = str(error)
    if any(file.role == PICKLE or file.action == "convert" for file in surveyed.files if not file.reason):
        warnings.append("pickles are not looked into here; patch opens them with torch")
    return Inspection(
        surveyed.source, surveyed.kind, family, surveyed.files, surveyed.copies, refusal, tuple(warnings)
    )


def _copy_json(copy: DenoiserCopy) -> Mapping[str, Any]:
    return {
        "label": copy.label,
        "component": copy.component,
        "variant": copy.variant,
        "naming": copy.naming,
        "ema": copy.is_ema,
        "dtypes": copy.dtypes,
        "files": list(copy.files),
        "value_layers": {
            name: {"rows": layer.rows, "columns": layer.columns, "bias": layer.bias is not None}
            for name, layer in copy.layers.items()
        },
    }
