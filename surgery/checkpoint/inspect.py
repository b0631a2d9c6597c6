"""Inspect: say what a checkpoint is made of, and what `patch` would do with each file.

Reads headers; where a tensor could repeat a value layer under another name, a row or two of both. Whether
`patch` would refuse is asked of the function that `patch` asks (`surgery.checkpoint.edit.judgement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.edit.judgement import judge
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.family import checkpoint_family
from surgery.checkpoint.survey.roles import PICKLE, CheckpointFile
from surgery.checkpoint.survey.source import Source, locate
from surgery.checkpoint.survey.survey import survey
from surgery.errors import UsageError


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
        text_paths: how text goes round the value layers, one sentence each.
        warnings: what the user should know, the text paths among it.
    """

    source: Source
    kind: str
    family: str
    files: tuple[CheckpointFile, ...]
    copies: tuple[DenoiserCopy, ...]
    refusal: str | None
    text_paths: tuple[str, ...]
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
            "text_paths": list(self.text_paths),
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
    """Say what a checkpoint is made of. Of weights only headers and a few rows are read, and
    pickles are not opened.

    Args:
        checkpoint: a folder, a single file, or a Hub id in the local cache.
        revision: for a Hub id: branch, tag or commit.

    Raises:
        UsageError: it is no checkpoint, or a weight file or index that a pipeline would load is broken.
    """
    surveyed = survey(locate(checkpoint, revision))
    files, copies = surveyed.files, surveyed.copies
    refusal: str | None = None
    text_paths: tuple[str, ...] = ()
    warnings: list[str] = []
    try:
        judged = judge(surveyed)
    except UsageError as error:
        refusal = str(error)
    else:
        files, copies = judged.checkpoint.files, judged.copies
        text_paths, warnings = judged.text_paths, list(judged.warnings)
    if any(file.role == PICKLE or file.action == "convert" for file in files if not file.reason):
        warnings.append("pickles are not looked into here; patch opens them with torch")
    family = checkpoint_family(surveyed)
    return Inspection(
        surveyed.source, surveyed.kind, family, files, copies, refusal, text_paths, tuple(warnings)
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
