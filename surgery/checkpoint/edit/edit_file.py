"""The file of an edit: rows to zero and trained tensors, made by `harden`, applied by `patch`.

A folder with two files: `edit.json` (format `surgery.edit/1`, every field in `surgery.formats`) says what is
to become of which denoiser, and vouches for `edit.safetensors`, which holds the trained tensors under
diffusers' names. Applying one needs no accelerator and no torch. It holds no prompt and no picture.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.edit.edits import Change
from surgery.checkpoint.edit.trained import ReplaceTensors
from surgery.checkpoint.formats.decode import decode
from surgery.checkpoint.formats.json_text import read_small_json
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import SafetensorsWeights, Weights
from surgery.checkpoint.survey.denoiser_copies import FLOATING
from surgery.errors import UsageError
from surgery.files import expanded, json_text, write_atomically
from surgery.neurons import NeuronSet, load_neurons

if TYPE_CHECKING:
    import numpy

FORMAT = "surgery.edit/1"
DOCUMENT_NAME, TENSORS_NAME = "edit.json", "edit.safetensors"
FIELDS = {"format", "layers", "tensors", "fingerprint", "rung", "settings", "versions"}
LARGEST_BYTES = 64 * 1024 * 1024  # of edit.json
_STEP = 1 << 24
_WAY_OUT = "make the edit again with `surgery harden`"

GivenEdit = NeuronSet | Mapping[str, Sequence[int]] | str | Path


@dataclass(frozen=True)
class Edit:
    """What is to become of a denoiser.

    Attributes:
        neurons: rows that become zero.
        fingerprint: of the denoiser that the edit was made for; None where unknown.
        changes: the trained tensors, if there are any.
    """

    neurons: NeuronSet
    fingerprint: Mapping[str, Any] | None = None
    changes: tuple[Change, ...] = ()


def load_edit(given: GivenEdit) -> Edit:
    """Neurons as `surgery.neurons.load_neurons` takes them, or the folder (or `edit.json`) of an edit.

    Raises:
        UsageError: as there; or the edit is damaged, holds what no edit holds, or lacks its tensors.
    """
    if isinstance(given, str | Path):
        path = expanded(given)
        document = path / DOCUMENT_NAME if path.is_dir() else path
        if path.is_dir() and not document.exists():
            raise UsageError(
                path, f"holds no {DOCUMENT_NAME}", "give a neurons.json, or the folder of an edit"
            )
        if document.name == DOCUMENT_NAME or path.is_dir():
            return read_edit(document)
    neurons, fingerprint = load_neurons(given)
    return Edit(neurons, fingerprint)


def read_edit(path: Path) -> Edit:
    """Read `edit.json` and check the tensors beside it.

    Raises:
        UsageError: a file is missing or damaged; tensors are not those that the document vouches for, not of
            floating type, or not finite.
    """
    document = _document(path)
    neurons = NeuronSet(document["layers"])
    fingerprint = document.get("fingerprint")
    if fingerprint is not None and not isinstance(fingerprint, Mapping):
        raise UsageError(path, "its fingerprint is no object", _WAY_OUT)
    facts = document["tensors"]
    if facts is None:
        return Edit(neurons, fingerprint)
    weights = _opened(path.parent / TENSORS_NAME)
    digest = _checked_digest(weights, path.parent / TENSORS_NAME)
    own = {"sha256": digest, "count": len(weights.header.tensors)}
    if facts != own:
        raise UsageError(path.parent / TENSORS_NAME, "is not the file that edit.json vouches for", _WAY_OUT)
    return Edit(neurons, fingerprint, (ReplaceTensors(weights, neurons, own),))


def write_edit(
    folder: str | Path,
    neurons: NeuronSet,
    tensors: Mapping[str, numpy.ndarray],
    *,
    fingerprint: Mapping[str, Any] | None = None,
    rung: str = "",
    settings: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write an edit's two files; the document last, so that a folder without it is no edit.

    Args:
        folder: made if need be.
        neurons: rows that become zero.
        tensors: diffusers' tensor name -> trained values, float32; may be empty.
        fingerprint: of the denoiser that it was made for (`surgery.fingerprint`).
        rung: how it was made, for people.
        settings: everything that it depends on, as JSON values.
        versions: of the libraries that made it.

    Returns:
        The document's path.

    Raises:
        UsageError: a tensor is not finite.
    """
    folder = expanded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    facts = None
    if tensors:
        digest = _write_tensors(folder / TENSORS_NAME, tensors)
        facts = {"sha256": digest, "count": len(tensors)}
    document = {
        "format": FORMAT,
        "rung": rung,
        "layers": neurons.as_json(),
        "tensors": facts,
        "fingerprint": fingerprint,
        "settings": dict(settings or {}),
        "versions": dict(versions or {}),
    }
    write_atomically(folder / DOCUMENT_NAME, json_text(document).encode())
    return folder / DOCUMENT_NAME


def _write_tensors(path: Path, tensors: Mapping[str, numpy.ndarray]) -> str:
    """Write a safetensors file of float32, one tensor at a time; its sha256.

    By way of another name, so that a folder never holds half of the tensors under theirs.
    """
    import numpy

    header: dict[str, Any] = {}
    end = 0
    for name in sorted(tensors):
        size = 4 * int(numpy.prod(tensors[name].shape))
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    hasher = hashlib.sha256()
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        for data in (len(text).to_bytes(8, "little"), text):
            hasher.update(data)
            file.write(data)
        for name in sorted(tensors):
            values = numpy.ascontiguousarray(tensors[name], dtype="<f4")
            if not numpy.isfinite(values).all():
                part.unlink()
                raise UsageError(name, "is not finite", "lower the learning rate")
            hasher.update(values.tobytes())
            file.write(values.tobytes())
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return hasher.hexdigest()


def _document(path: Path) -> dict[str, Any]:
    document = read_small_json(path, str(path), LARGEST_BYTES, _WAY_OUT)
    if document.get("format") != FORMAT:
        raise UsageError(
            path, f"its format is {document.get('format')!r}", f"give an edit of format {FORMAT!r}"
        )
    if unknown := document.keys() - FIELDS:
        raise UsageError(path, f"holds {min(unknown)!r}, which no edit holds", _WAY_OUT)
    if not isinstance(document.get("layers"), dict) or "tensors" not in document:
        raise UsageError(path, "lacks its layers or its tensors", _WAY_OUT)
    return document


def _opened(path: Path) -> SafetensorsWeights:
    if not path.is_file():
        raise UsageError(path, "no such file, and edit.json is half of an edit", "keep the two together")
    return SafetensorsWeights(path, path.name)


def _checked_digest(weights: Weights, path: Path) -> str:
    """sha256 of the file, every number looked at on the way."""
    import numpy

    hasher = hashlib.sha256(weights.read(0, weights.header.data_start))
    for tensor in sorted(weights.header.tensors.values(), key=lambda one: one.begin):
        if tensor.dtype not in FLOATING:
            raise UsageError(path, f"{tensor.name} is of dtype {tensor.dtype}", _WAY_OUT)
        for data in _pieces(weights, tensor):
            numbers = decode(data, tensor.dtype)
            if numbers is None or not numpy.isfinite(numbers).all():
                raise UsageError(path, f"{tensor.name} is not finite", _WAY_OUT)
            hasher.update(data)
    return hasher.hexdigest()


def _pieces(weights: Weights, tensor: Tensor) -> Iterator[bytes]:
    for begin in range(tensor.begin, tensor.end, _STEP):
        yield weights.read(begin, min(begin + _STEP, tensor.end))
