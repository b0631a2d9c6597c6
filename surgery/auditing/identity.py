"""Who is audited: hashes of weight files, fingerprints, changed rows, ids of prompts, versions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from surgery.denoisers import BLOCKS
from surgery.errors import UsageError
from surgery.files import expanded
from surgery.model.pipeline import LiveModel
from surgery.model.value_layers import denoiser_fingerprint, value_layers
from surgery.neurons import NeuronSet, read_neurons_document

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".ckpt")


def digest(*parts: Any) -> str:
    """SHA-256 over JSON values and tensors, as hexadecimal."""
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            hasher.update(str((tuple(part.shape), part.dtype)).encode())
            hasher.update(part.contiguous().cpu().numpy().tobytes())
        else:
            hasher.update(json.dumps(part, sort_keys=True).encode())
        hasher.update(b"\0")
    return hasher.hexdigest()


def prompt_id(prompt: str, salt: str) -> str:
    """A name for a prompt that does not give it away: prompts are easily guessed, hence the secret salt."""
    return "p" + hashlib.sha256(f"{salt}\0{prompt}".encode()).hexdigest()[:12]


def describe(model: LiveModel, include_private: bool) -> dict[str, Any]:
    """`name`, `fingerprint` of the value layers, and SHA-256 of the denoiser's weight files where local."""
    source = expanded(model.source)
    local = source.exists()
    return {
        "name": model.source if include_private or not local else source.resolve().name,
        "fingerprint": digest(denoiser_fingerprint(model.denoiser)),
        "sha256": _weight_hashes(source) if local else {},
    }


def _weight_hashes(source: Path) -> dict[str, str]:
    files = [source] if source.is_file() else sorted((source / "unet").glob("*"))
    hashes = {}
    for file in files:
        if file.suffix in WEIGHT_SUFFIXES:
            with file.open("rb") as opened:
                hashes[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return hashes


def changed_rows(source: LiveModel, patched: LiveModel) -> tuple[NeuronSet, int]:
    """(rows that are zero in PATCHED and not in SOURCE, value rows that differ in any other way).

    Raises:
        UsageError: the two denoisers do not have the same value layers.
    """
    before, after = value_layers(source.denoiser, BLOCKS), value_layers(patched.denoiser, BLOCKS)
    shapes = [{name: tuple(layer.weight.shape) for name, layer in one.items()} for one in (before, after)]
    if shapes[0] != shapes[1]:
        raise UsageError(patched.source, "is not a patched copy of the source: its value layers differ", "")
    zeroed, others = {}, 0
    for name in before:
        old, new = before[name].weight.detach().cpu(), after[name].weight.detach().cpu()
        differs = (old != new.to(old.dtype)).any(1)
        is_zero = (new == 0).all(1) & differs
        zeroed[name] = is_zero.nonzero().flatten().tolist()
        others += int((differs & ~is_zero).sum())
    return NeuronSet(zeroed), others


def neuron_counts(path: str | Path | None, audit_seeds: list[int]) -> dict[str, dict[int, int]]:
    """How many prompts each neuron was found for, by the records of a `neurons.json`: layer, row -> count.

    Raises:
        UsageError: the file is broken, or its search used a seed of this audit.
    """
    if path is None:
        return {}
    document = read_neurons_document(path)
    settings = document.get("settings")
    used = {settings.get("seed"), settings.get("confirm_seed")} if isinstance(settings, dict) else set()
    if clash := used & set(audit_seeds):
        raise UsageError("first-seed", f"localization used seed {clash.pop()}", "give another --first-seed")
    counts: dict[str, dict[int, int]] = {}
    for record in document.get("prompts", []):
        for layer, rows in record.get("refined", {}).items():
            for row in rows:
                counts.setdefault(layer, {})[row] = counts.setdefault(layer, {}).get(row, 0) + 1
    return counts
