"""What each file of a checkpoint folder is, and what `patch` does with it, as far as its name can tell.

The output of `patch` is an allow-list: a file is carried over because a pipeline needs it, never because it
happens to lie there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from surgery.checkpoint.formats.weights import Weights
from surgery.checkpoint.names.files import (
    COMPONENT_SIDE_FILES,
    CONFIGURATION,
    LICENSE_FILE,
    MANIFEST_NAME,
    MODEL_INDEX,
    PICKLE_SUFFIXES,
    foreign_weights,
    parse_weights_name,
    safetensors_name,
)
from surgery.checkpoint.survey.scan import FoundFile

# roles
DENOISER = "denoiser weights"
COMPONENT_WEIGHTS = "component weights"
PICKLE = "pickled weights"
INDEX = "shard index"
CONFIGURATION_FILE = "configuration"
TOKENIZER = "tokenizer"
LICENSE = "license"
UNKNOWN_WEIGHTS = "unknown weights"
FOREIGN_WEIGHTS = "weights of another framework"
OTHER = "other"
# actions
PATCH, COPY, CONVERT, LEAVE_OUT = "patch", "copy", "convert", "leave out"


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file of a checkpoint.

    Attributes:
        path: within the checkpoint, with `/`.
        location: where it is on this machine.
        bytes: its size.
        role: one of the roles above.
        action: `patch`, `copy`, `convert` (a pickle, to safetensors; patched too if it is the denoiser) or
            `leave out`.
        reason: why it is left out; "" otherwise.
        output: its path within the output; "" when left out.
        weights: its opened weights, where it has some that can be read.
    """

    path: str
    location: Path
    bytes: int
    role: str
    action: str
    reason: str = ""
    output: str = ""
    weights: Weights | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def component(self) -> str:
        """The folder it lies in, "" for the root."""
        return self.path.rpartition("/")[0]

    @property
    def holds_weights(self) -> bool:
        """Whether it is a weight file that is carried over, opened or (a pickle) not."""
        is_pickle = self.action == CONVERT and self.role != INDEX
        return self.action != LEAVE_OUT and (self.weights is not None or is_pickle)

    def left_out(self, reason: str) -> CheckpointFile:
        """The same file, not to be carried over."""
        return replace(self, action=LEAVE_OUT, reason=reason, output="", weights=None)


def classify(file: FoundFile, components: Collection[str]) -> CheckpointFile:
    """The role and action of one file by its name and place.

    Args:
        file: from `scan_folder`.
        components: the folders that the pipeline loads from; {""} for a folder that is itself a component.
    """
    folder, _, name = file.path.rpartition("/")
    if file.obstacle:
        return _out(file, OTHER, file.obstacle)
    if name.startswith("."):
        return _out(file, OTHER, "a hidden file")
    if foreign := foreign_weights(name):
        return _out(file, FOREIGN_WEIGHTS, f"{foreign}, which cannot be patched")
    if not folder and "" not in components:
        return _classify_root(file, name)
    if folder not in components:
        return _out(file, OTHER, "lies in a folder that is no component of the pipeline")
    return _classify_in_component(file, name)


def _classify_root(file: FoundFile, name: str) -> CheckpointFile:
    if name == MODEL_INDEX:
        return _carried(file, CONFIGURATION_FILE)
    if LICENSE_FILE.fullmatch(name):
        return _carried(file, LICENSE)
    if name.endswith(
        ".safetensors"
    ):  # settled by its header: a single-file copy of the denoiser, or left out
        return CheckpointFile(file.path, file.location, file.bytes, UNKNOWN_WEIGHTS, COPY, "", file.path)
    if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES:
        return _out(file, PICKLE, "a pickle that no component loads; patch it by itself if it is needed")
    return _out(file, OTHER, _reason_for_other(name))


def _classify_in_component(file: FoundFile, name: str) -> CheckpointFile:
    parsed = parse_weights_name(name)
    if parsed and parsed.is_index:
        output = safetensors_name(file.path.rpartition("/")[2]) if parsed.is_pickle else name
        return _carried(file, INDEX, CONVERT if parsed.is_pickle else COPY, output)
    if parsed and parsed.is_pickle:
        return _carried(file, PICKLE, CONVERT, safetensors_name(name))
    if parsed:
        return _carried(file, COMPONENT_WEIGHTS)
    if name in COMPONENT_SIDE_FILES:
        return _carried(file, CONFIGURATION_FILE if name.endswith(CONFIGURATION) else TOKENIZER)
    if LICENSE_FILE.fullmatch(name):
        return _carried(file, LICENSE)
    if name.lower().endswith(".safetensors") or PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES:
        return _out(file, UNKNOWN_WEIGHTS, "weights that no component of the pipeline loads")
    return _out(file, OTHER, _reason_for_other(name))


def _reason_for_other(name: str) -> str:
    if name == MANIFEST_NAME:
        return "the manifest of an earlier patch; a new one is written"
    if name.lower() == "readme.md":
        return "describes the unpatched model; --keep carries it over"
    return "not among the files that a pipeline loads"


def _out(file: FoundFile, role: str, reason: str) -> CheckpointFile:
    return CheckpointFile(file.path, file.location, file.bytes, role, LEAVE_OUT, reason)


def _carried(file: FoundFile, role: str, action: str = COPY, name: str = "") -> CheckpointFile:
    folder, slash, own_name = file.path.rpartition("/")
    output = f"{folder}{slash}{name or own_name}"
    return CheckpointFile(file.path, file.location, file.bytes, role, action, "", output)
