"""The model family of a checkpoint, for people, and the settings by which its denoiser is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.checkpoint.names.denoisers import family_of, settings_of_file
from surgery.checkpoint.names.value_layers import DENOISER_PREFIX
from surgery.checkpoint.survey.survey import Checkpoint


def checkpoint_family(checkpoint: Checkpoint) -> str:
    """The model family, for people: from the denoiser's `config.json`, or from a single file's tensors."""
    settings = denoiser_settings(checkpoint)
    return family_of(settings, checkpoint.declared.pipeline) if settings else "unknown"


def denoiser_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The denoiser's `config.json`, or what the tensors of a single file tell; empty where nothing does."""
    for component in checkpoint.denoisers:
        if component in checkpoint.configurations:
            return checkpoint.configurations[component]
    if not checkpoint.copies:
        return {}
    copy = checkpoint.copies[0]
    widths = {layer.columns for layer in copy.layers.values()}
    tensors = {
        name.removeprefix(DENOISER_PREFIX): tensor
        for path in copy.files
        if (weights := checkpoint.file(path).weights) is not None
        for name, tensor in weights.header.tensors.items()
    }
    return settings_of_file(tensors, widths.pop() if len(widths) == 1 else None)
