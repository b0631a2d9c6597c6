"""What a pipeline's `model_index.json` declares: its class and components; which of them have no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.checkpoint.names.files import MODEL_INDEX
from surgery.checkpoint.survey.roles import CheckpointFile
from surgery.errors import UsageError

# how the names of classes end that have no weights
_WEIGHTLESS = re.compile(r"(Scheduler|Tokenizer|TokenizerFast|Processor|ProcessorFast|FeatureExtractor|Mel)$")


@dataclass(frozen=True, slots=True)
class Declared:
    """What `model_index.json` says.

    Attributes:
        pipeline: the pipeline's class; "" where there is no index.
        components: name -> class; "" for a component that the pipeline can have, but here has not.
    """

    pipeline: str = ""
    components: Mapping[str, str] = field(default_factory=dict)

    @property
    def folders(self) -> set[str]:
        """The components that are there; each is a folder beside the index."""
        return {name for name, kind in self.components.items() if kind}


def read_declared(document: Mapping[str, Any]) -> Declared:
    """Read a `model_index.json`.

    Raises:
        UsageError: a component's name leads out of the folder.
    """
    pipeline = document.get("_class_name")
    if isinstance(pipeline, list) and pipeline:  # a pipeline of its own code: [file, class]
        pipeline = pipeline[-1]
    components = {}
    for name, value in document.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
            continue
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise UsageError(MODEL_INDEX, f"names an impossible component {name!r}", "repair the file")
        components[name] = "" if value[1] is None else str(value[1])
    return Declared(pipeline.removeprefix("Flax") if isinstance(pipeline, str) else "", components)


def components_without_weights(declared: Declared, files: Iterable[CheckpointFile]) -> list[str]:
    """The declared components that should have weights, and of which none can be carried over."""
    held = {file.component for file in files if file.holds_weights}
    return sorted(
        name for name in declared.folders - held if not _WEIGHTLESS.search(declared.components[name])
    )
