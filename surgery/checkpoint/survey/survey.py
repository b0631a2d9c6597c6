"""Survey a checkpoint: every file with its role, every copy of the denoiser, and what `patch` would do.

1. `scan_folder` lists what is there; `model_index.json` says which components the pipeline has.
2. Names decide what may be carried over at all (an allow-list); everything else is left out with a reason.
3. Weight files are read (headers only): whatever holds value layers is the denoiser, wherever it lies.
4. Copies that are not whole are left out, and so is a pickle beside a safetensors copy of the same weights; a
   lone pickle is converted (`surgery.checkpoint.survey.shards`).

Pickles are opened only when the caller passes `open_pickle` (patch and diff do, inspect does not: no torch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.checkpoint.formats.json_text import MAX_CONFIGURATION_BYTES, read_small_json
from surgery.checkpoint.formats.weights import SafetensorsWeights, Weights
from surgery.checkpoint.names.denoisers import is_denoiser_class, with_class
from surgery.checkpoint.names.files import CONFIGURATION, MODEL_INDEX, PICKLE_SUFFIXES, parse_weights_name
from surgery.checkpoint.names.value_layers import value_like, value_name
from surgery.checkpoint.survey.declared import Declared, read_declared
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy, find_copies
from surgery.checkpoint.survey.roles import (
    CONVERT,
    COPY,
    DENOISER,
    INDEX,
    LEAVE_OUT,
    PATCH,
    PICKLE,
    UNKNOWN_WEIGHTS,
    CheckpointFile,
    classify,
)
from surgery.checkpoint.survey.scan import scan_folder
from surgery.checkpoint.survey.shards import check_indexes, settle_copies
from surgery.checkpoint.survey.side_content import settle_side_files
from surgery.checkpoint.survey.source import FILE, Source
from surgery.errors import UsageError

PIPELINE, COMPONENT, SINGLE = "pipeline folder", "component folder", "single file"
MAX_TENSORS = 150_000  # of all files of a folder; SDXL in ten variants has 40,000
OpenPickle = Callable[[Path, str], Weights]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A surveyed checkpoint.

    Attributes:
        source: where it is.
        kind: `pipeline folder`, `component folder` or `single file`.
        denoisers: the components that hold value layers, or whose class says so; `""` is the root or the
            file.
        configurations: component -> its `config.json`, with the class by which it is loaded.
        files: every file, sorted by path.
        copies: every copy of the denoiser whose names could be read.
        declared: what `model_index.json` says; empty where there is none.
    """

    source: Source
    kind: str
    denoisers: tuple[str, ...]
    configurations: Mapping[str, Mapping[str, Any]]
    files: tuple[CheckpointFile, ...]
    copies: tuple[DenoiserCopy, ...]
    declared: Declared = field(default_factory=Declared)

    def file(self, path: str) -> CheckpointFile:
        """The file of the given path within the checkpoint."""
        return next(file for file in self.files if file.path == path)


def survey(source: Source, open_pickle: OpenPickle | None = None) -> Checkpoint:
    """Survey a checkpoint; reads JSON files and weight headers only.

    Args:
        source: from `locate`.
        open_pickle: opens a torch pickle as weights; without it pickles are listed but not looked into.

    Raises:
        UsageError: the folder is no checkpoint, or a weight file that a pipeline would load is broken.
    """
    if source.kind == FILE:
        return _survey_file(source, open_pickle)
    index = source.path / MODEL_INDEX
    declared = read_declared(_read_json(index)) if index.exists() else Declared()
    found = scan_folder(source.path, declared.folders)
    names = {file.path for file in found}
    if MODEL_INDEX in names:
        kind, components = PIPELINE, declared.folders
    elif CONFIGURATION in names:
        kind, components = COMPONENT, {""}
    else:
        raise UsageError(
            source.name,
            f"has neither {MODEL_INDEX} nor {CONFIGURATION}",
            "give a diffusers folder or one weight file",
        )
    files = settle_side_files([classify(file, components) for file in found])
    files = _all_opened(settle_copies(files), open_pickle)
    check_indexes(files)
    configurations = {
        component: with_class(
            _read_json(source.path / component / CONFIGURATION), declared.components.get(component)
        )
        for component in components
        if f"{component}/{CONFIGURATION}".lstrip("/") in names
    }
    denoisers = tuple(sorted(_denoisers(files, configurations)))
    files = [_as_denoiser(file, denoisers) for file in files]
    return Checkpoint(source, kind, denoisers, configurations, tuple(files), _copies(files), declared)


def _survey_file(source: Source, open_pickle: OpenPickle | None) -> Checkpoint:
    name = source.path.name
    parsed = parse_weights_name(name)
    if parsed and parsed.shard:
        raise UsageError(name, "is one shard of a checkpoint", "give the folder that holds all shards")
    size = source.path.stat().st_size
    is_pickle = source.path.suffix.lower() in PICKLE_SUFFIXES
    output = str(PurePosixPath(name).with_suffix(".safetensors"))
    file = CheckpointFile(name, source.path, size, DENOISER, CONVERT if is_pickle else PATCH, "", output)
    if not is_pickle:
        file = replace(file, weights=SafetensorsWeights(source.path, name))
    elif open_pickle is not None:
        file = replace(file, weights=open_pickle(source.path, name))
    return Checkpoint(source, SINGLE, ("",), {}, (file,), _copies([file]))


def _read_json(path: Path) -> dict[str, Any]:
    return read_small_json(path, f"{path.parent.name}/{path.name}", MAX_CONFIGURATION_BYTES)


def _all_opened(files: list[CheckpointFile], open_pickle: OpenPickle | None) -> list[CheckpointFile]:
    opened = []
    tensors = 0
    for file in files:
        file = _opened(file, open_pickle)
        tensors += len(file.weights.header.tensors) if file.weights is not None else 0
        if tensors > MAX_TENSORS:
            cause = f"holds more than {MAX_TENSORS} tensors together with the files before it"
            raise UsageError(file.path, cause, "give a folder of one checkpoint")
        opened.append(file)
    return opened


def _opened(file: CheckpointFile, open_pickle: OpenPickle | None) -> CheckpointFile:
    if file.action == LEAVE_OUT or file.role == INDEX:
        return file
    if file.role == UNKNOWN_WEIGHTS:
        return _opened_beside_pipeline(file)
    if file.location.name.endswith(".safetensors"):
        return replace(file, weights=SafetensorsWeights(file.location, file.path))
    if file.role == PICKLE and open_pickle is not None:
        return replace(file, weights=open_pickle(file.location, file.path))
    return file


def _opened_beside_pipeline(file: CheckpointFile) -> CheckpointFile:
    """A single file at the root of a pipeline folder, which no component loads: patched, or left out."""
    try:
        weights = SafetensorsWeights(file.location, file.path)
    except UsageError as error:
        return file.left_out(f"a further copy that cannot be read: {error.cause}")
    if not any(value_name(key) for key in weights.header.tensors):
        return file.left_out("weights that no component of the pipeline loads")
    return replace(file, weights=weights, action=PATCH)


def _denoisers(files: list[CheckpointFile], configurations: Mapping[str, Mapping[str, Any]]) -> set[str]:
    by_class = {
        component
        for component, configuration in configurations.items()
        if is_denoiser_class(configuration.get("_class_name"))
    }
    by_content = {
        file.component
        for file in files
        if file.weights and file.role != UNKNOWN_WEIGHTS and any(map(value_like, file.weights.header.tensors))
    }
    return by_class | by_content


def _as_denoiser(file: CheckpointFile, denoisers: tuple[str, ...]) -> CheckpointFile:
    is_weights = file.weights is not None or file.role == PICKLE
    if file.action == LEAVE_OUT or not is_weights:
        return file
    if file.role == UNKNOWN_WEIGHTS or (file.component in denoisers and file.role != INDEX):
        return replace(file, role=DENOISER, action=PATCH if file.action == COPY else file.action)
    return file


def _copies(files: list[CheckpointFile]) -> tuple[DenoiserCopy, ...]:
    """Group the denoiser's files into copies: a shard belongs with the other shards of its variant."""
    groups: dict[tuple[str, str, str, bool], list[CheckpointFile]] = {}
    for file in files:
        if file.role != DENOISER or file.weights is None:
            continue
        parsed = parse_weights_name(file.name)
        sharded = bool(parsed and parsed.shard)
        stem, variant = parsed.copy if parsed else (file.path, "")
        groups.setdefault((file.component, stem, variant, sharded), []).append(file)
    copies: list[DenoiserCopy] = []
    for (component, stem, variant, sharded), members in sorted(groups.items()):
        label = _label(component, stem, variant, sharded, members[0].name)
        weights = [(file.path, file.weights) for file in members if file.weights is not None]
        copies.extend(find_copies(label, component, variant, weights))
    return tuple(copies)


def _label(component: str, stem: str, variant: str, sharded: bool, first: str) -> str:
    """How people call a copy: `unet`, `unet (fp16, shards)`, `v1-5-pruned.safetensors`."""
    if not component and not sharded:
        return first
    unusual = "" if stem == "diffusion_pytorch_model" else stem
    notes = ", ".join(filter(None, (unusual, variant, "shards" if sharded and component else "")))
    return f"{component or 'shards'} ({notes})" if notes else component or "shards"
