"""Which copies of a component are whole: shard indexes, stale or incomplete ones, pickles beside safetensors.

diffusers looks an index up before any unsharded file, so a stale index decides which weights load. An index
is kept only when its shards are all carried over and hold exactly the tensors it says. A partial download is
common (one variant of several): what is whole is kept, the rest is left out with a reason, and only a
component of which nothing is whole is refused.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from surgery.checkpoint.formats.json_text import MAX_INDEX_BYTES, read_small_json
from surgery.checkpoint.names.files import WeightsName, parse_weights_name, safetensors_name
from surgery.checkpoint.names.value_layers import value_like
from surgery.checkpoint.survey.roles import CONVERT, COPY, INDEX, LEAVE_OUT, CheckpointFile
from surgery.errors import UsageError

_REPAIR = "download the missing files, or save the model again"
_TWIN = "a pickle beside a safetensors copy of the same weights"


def settle_copies(files: list[CheckpointFile]) -> list[CheckpointFile]:
    """Decide by names and indexes alone, before any weights are opened, which copies are carried over.

    1. An index whose shards are all carried is whole, and so is a weight file that is no shard.
    2. Of an index that is not whole, and of shards that no whole index names, nothing is carried over.
    3. Neither is a pickled copy beside a whole safetensors copy of the same component and variant. What an
       index names decides whether a copy is pickled: an index for safetensors may name `.bin` files.

    Raises:
        UsageError: an index is broken or leads out of its folder, or nothing of a component is whole.
    """
    indexes = [file for file in files if file.role == INDEX and file.action != LEAVE_OUT]
    if (
        sum(file.bytes for file in indexes) > MAX_INDEX_BYTES
    ):  # each of them is read, and few checkpoints have two
        raise UsageError(indexes[-1].path, "is one of too many large shard indexes", "remove stale ones")
    settled = {file.path: file for file in files}
    shards = {file.path: _shards(file) for file in indexes}
    missing = {
        index: [path for path in paths if not _carried(settled, path)] for index, paths in shards.items()
    }
    copies = [(index, [index, *paths]) for index, paths in shards.items() if not missing[index]]
    spoken_for = {path for _, paths in copies for path in paths}
    for file in files:
        named = parse_weights_name(file.name)
        is_lone = named and not named.shard and not named.is_index and file.path not in spoken_for
        if is_lone and file.action != LEAVE_OUT:
            copies.append((file.path, [file.path]))
    whole = {settled[path].component for path, _ in copies}
    for index, gone in missing.items():
        if gone:
            settled[index] = _incomplete(settled[index], gone[0], copies, whole)
    _leave_out_orphans(settled, {path for _, paths in copies for path in paths}, whole)
    safe = {_copy_of(settled[path]) for path, paths in copies if not _is_pickled(paths)}
    kept = {
        path
        for first, paths in copies
        if not _is_pickled(paths) or _copy_of(settled[first]) not in safe
        for path in paths
    }
    for first, paths in copies:
        for path in paths:
            if path not in kept:
                settled[path] = settled[path].left_out(_TWIN)
        if first in shards and first in kept:  # what it names becomes safetensors
            action = CONVERT if _is_pickled(paths) else COPY
            settled[first] = replace(settled[first], action=action)
    return list(settled.values())


def _shards(index: CheckpointFile) -> list[str]:
    return sorted({f"{index.component}/{name}".lstrip("/") for name in read_index(index).values()})


def _carried(files: dict[str, CheckpointFile], path: str) -> bool:
    return path in files and files[path].action != LEAVE_OUT


def _named(file: CheckpointFile) -> WeightsName:
    named = parse_weights_name(file.name)
    assert named is not None  # only files with such names make a copy
    return named


def _copy_of(file: CheckpointFile) -> tuple[str, tuple[str, str]]:
    return file.component, _named(file).copy


def _is_pickled(paths: list[str]) -> bool:
    return any(path.endswith(".bin") for path in paths)


def _incomplete(
    index: CheckpointFile, gone: str, copies: list[tuple[str, list[str]]], whole: set[str]
) -> CheckpointFile:
    """An index without all of its shards, left out; refused where nothing else of its component is whole."""
    if index.component not in whole:
        raise UsageError(index.path, f"names the shard {gone}, which is not there", _REPAIR)
    folder, copy = index.component, _named(index).copy
    same = (path for path, _ in copies if path.rpartition("/")[0] == folder)
    named = (parse_weights_name(path.rpartition("/")[2]) for path in same)
    is_stale = any(each is not None and each.copy == copy for each in named)
    return index.left_out(f"{'a stale index' if is_stale else 'an incomplete copy'}: {gone} is not there")


def _leave_out_orphans(files: dict[str, CheckpointFile], spoken_for: set[str], whole: set[str]) -> None:
    for path, file in files.items():
        named = parse_weights_name(file.name)
        if not named or not named.shard or file.action == LEAVE_OUT or path in spoken_for:
            continue
        if file.component not in whole:
            raise UsageError(path, "is a shard, but no index names it", _REPAIR)
        files[path] = file.left_out("a shard of a copy that is not whole")


def read_index(file: CheckpointFile) -> dict[str, str]:
    """The `weight_map` of an index: tensor name -> file name in the same folder.

    Raises:
        UsageError: it is no index, or names a file outside its folder.
    """
    document = _read_document(file)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(file.path, "has no weight_map", _REPAIR)
    for name in weight_map.values():
        parsed = parse_weights_name(name) if isinstance(name, str) else None
        if parsed is None or parsed.is_index:  # `../../x` is no weight file's name either
            raise UsageError(file.path, f"names {name!r}, which is no weight file of its folder", _REPAIR)
    return weight_map


def converted_index(file: CheckpointFile) -> bytes:
    """The text of an index of pickled shards, naming the safetensors files that take their place."""
    document = _read_document(file)
    document["weight_map"] = {key: safetensors_name(name) for key, name in read_index(file).items()}
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("utf-8")


def _read_document(file: CheckpointFile) -> dict[str, Any]:
    return read_small_json(file.location, file.path, MAX_INDEX_BYTES, _REPAIR)


def check_indexes(files: list[CheckpointFile]) -> None:
    """Compare every index that is carried over with what its opened shards hold.

    Raises:
        UsageError: they disagree, or two shards hold the same tensor.
    """
    by_path = {file.path: file for file in files}
    for file in files:
        if file.role == INDEX and file.action != LEAVE_OUT:
            _check_index(file, by_path)


def _check_index(file: CheckpointFile, files: dict[str, CheckpointFile]) -> None:
    weight_map = read_index(file)
    held: dict[str, str] = {}
    for path in _shards(file):
        weights = files[path].weights
        if weights is None:  # a pickle that was not opened
            return
        for key in weights.header.tensors:
            if key in held:
                raise UsageError(file.path, f"two of its shards hold the tensor {key!r}", _REPAIR)
            held[key] = files[path].name
    for key in weight_map:
        if key not in held:
            raise UsageError(file.path, f"names the tensor {key!r}, which none of its shards holds", _REPAIR)
    unnamed = sorted(key for key in held if key not in weight_map and value_like(key))
    if unnamed:  # other tensors may go unnamed: some indexes leave out tied weights
        raise UsageError(file.path, f"does not name the value layer {unnamed[0]!r} of its shards", _REPAIR)
