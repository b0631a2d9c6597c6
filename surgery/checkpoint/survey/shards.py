"""Shard indexes: which are right, which are stale, and what they say once pickled shards became safetensors.

diffusers looks an index up before any unsharded file, so a stale index decides which weights load. An index
is kept only when its shards are all there and hold exactly the tensors it says.
"""

from __future__ import annotations

import json
from typing import Any

from surgery.checkpoint.formats.json_text import MAX_INDEX_BYTES, read_small_json
from surgery.checkpoint.names.files import parse_weights_name, safetensors_name
from surgery.checkpoint.names.value_layers import value_like
from surgery.checkpoint.survey.roles import INDEX, LEAVE_OUT, CheckpointFile
from surgery.errors import UsageError

_REPAIR = "download the missing files, or save the model again"


def settle_indexes(files: list[CheckpointFile]) -> list[CheckpointFile]:
    """Leave out stale indexes and orphaned shards; refuse a copy that is only there in part.

    Raises:
        UsageError: an index is broken or leads out of its folder, or a component's only copy is incomplete.
    """
    indexes = [file for file in files if file.role == INDEX and file.action != LEAVE_OUT]
    if (
        sum(file.bytes for file in indexes) > MAX_INDEX_BYTES
    ):  # each of them is read, and few checkpoints have two
        raise UsageError(indexes[-1].path, "is one of too many large shard indexes", "remove stale ones")
    settled = {file.path: file for file in files}
    spoken_for: set[str] = set()
    for file in indexes:
        shards = {f"{file.component}/{name}".lstrip("/") for name in set(read_index(file).values())}
        missing = sorted(path for path in shards if path not in settled)
        if not missing:
            spoken_for |= shards
            _check_index(file, settled)
        elif _has_unsharded_copy(file, settled):
            settled[file.path] = file.left_out(f"a stale index: {missing[0]} is not there")
        else:
            raise UsageError(file.path, f"names the shard {missing[0]}, which is not there", _REPAIR)
    for file in files:
        parsed = parse_weights_name(file.name)
        is_orphan = parsed and parsed.shard and file.action != LEAVE_OUT and file.path not in spoken_for
        if is_orphan and _has_unsharded_copy(file, settled):
            settled[file.path] = file.left_out("a shard that no index names")
        elif is_orphan:
            raise UsageError(file.path, "is a shard, but no index names it", _REPAIR)
    return list(settled.values())


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


def _check_index(file: CheckpointFile, files: dict[str, CheckpointFile]) -> None:
    weight_map = read_index(file)
    held: dict[str, str] = {}
    for path in {f"{file.component}/{name}".lstrip("/") for name in weight_map.values()}:
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


def _has_unsharded_copy(file: CheckpointFile, files: dict[str, CheckpointFile]) -> bool:
    parsed = parse_weights_name(file.name)
    for other in files.values():
        candidate = parse_weights_name(other.name)
        if other.component == file.component and other.action != LEAVE_OUT and candidate and parsed:
            complete = not candidate.shard and not candidate.is_index
            if complete and candidate.copy == parsed.copy:
                return True
    return False
