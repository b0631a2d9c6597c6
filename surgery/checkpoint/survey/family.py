"""The model family of a checkpoint, for people."""

from __future__ import annotations

from surgery.checkpoint.names.denoisers import family_of, unet_family
from surgery.checkpoint.names.value_layers import DENOISER_PREFIX
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.survey import Checkpoint


def checkpoint_family(checkpoint: Checkpoint) -> str:
    """The model family, for people: from the denoiser's `config.json`, or from a single file's tensors."""
    for component in checkpoint.denoisers:
        if component in checkpoint.configurations:
            return family_of(checkpoint.configurations[component])
    for copy in checkpoint.copies:
        return _family_of_file(checkpoint, copy)
    return "unknown"


def _family_of_file(checkpoint: Checkpoint, copy: DenoiserCopy) -> str:
    weights = checkpoint.file(copy.files[0]).weights
    widths = {layer.columns for layer in copy.layers.values()}
    if weights is None or len(widths) != 1:
        return "unknown"
    tensors = weights.header.tensors
    for name in (f"{DENOISER_PREFIX}input_blocks.0.0.weight", "input_blocks.0.0.weight", "conv_in.weight"):
        if name in tensors:
            return unet_family(widths.pop(), tensors[name].shape[1])
    if any(layer.startswith(("transformer_blocks.", "blocks.", "layers.")) for layer in copy.layers):
        return "diffusion transformer"
    return unet_family(widths.pop(), None)
