"""Checks of what a weight file holds: each refuses a case in which zeroing rows would not end the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from surgery.checkpoint.names.denoisers import text_widths
from surgery.checkpoint.names.value_layers import refused_name, value_like, value_name
from surgery.checkpoint.survey.denoiser_copies import FLOATING, PACKED, DenoiserCopy
from surgery.checkpoint.survey.roles import DENOISER, LEAVE_OUT, CheckpointFile
from surgery.checkpoint.survey.source import FOLDER
from surgery.checkpoint.survey.survey import SINGLE, Checkpoint
from surgery.errors import UsageError
from surgery.neurons import NeuronSet


def the_denoiser(checkpoint: Checkpoint) -> str:
    """The one component that is the denoiser.

    Raises:
        UsageError: there is none, or a second network with value layers (a ControlNet, a second transformer).
    """
    if not checkpoint.denoisers:
        raise UsageError(
            checkpoint.source.name, "no component has value layers", "give a text-to-image checkpoint"
        )
    if len(checkpoint.denoisers) > 1:
        names = ", ".join(checkpoint.denoisers)
        raise UsageError(
            checkpoint.source.name,
            f"more than one network has cross-attention ({names}), and neurons belong to one",
            "save the pipeline without the other networks, and patch that",
        )
    component = checkpoint.denoisers[0]
    if checkpoint.kind != SINGLE and component not in checkpoint.configurations:
        raise UsageError(f"{component}/config.json", "no such file", "download the checkpoint again")
    return component


def patchable_copies(
    checkpoint: Checkpoint, component: str, neurons: NeuronSet
) -> tuple[Checkpoint, tuple[DenoiserCopy, ...]]:
    """Check every copy; a further single file that cannot be patched is left out, any other refused.

    Args:
        checkpoint: from `survey`.
        component: its denoiser.
        neurons: the rows to zero; an empty set checks everything but them.

    Returns:
        the checkpoint with its files' final actions, and the copies that can be patched.

    Raises:
        UsageError: a copy that the pipeline may load cannot be patched, or there is none.
    """
    files = []
    for file in checkpoint.files:
        if file.action != LEAVE_OUT and file.weights is not None:
            is_extra = checkpoint.source.kind == FOLDER and not file.component and component != ""
            own = [copy for copy in checkpoint.copies if file.path in copy.files]
            try:
                check_names(file, is_denoiser=file.component == component or is_extra)
                for copy in own:
                    check_copy(copy, neurons, checkpoint.configurations.get(component, {}))
            except UsageError as error:
                if not is_extra:
                    raise
                file = file.left_out(f"a further copy that cannot be patched: {error.cause}")
        files.append(file)
    checkpoint = replace(checkpoint, files=tuple(files))
    gone = {file.path for file in files if file.action == LEAVE_OUT}
    copies = tuple(copy for copy in checkpoint.copies if not gone & set(copy.files))
    held = {path for copy in copies for path in copy.files}
    for file in files:
        if file.role == DENOISER and file.weights is not None and file.path not in held | gone:
            raise UsageError(
                file.path, "holds no value layers under a name that is known", "remove or replace it"
            )
    if not any(file.role == DENOISER and file.path not in gone for file in files):
        name = component or checkpoint.source.name
        raise UsageError(name, "holds no weights of the denoiser", "give a whole checkpoint")
    return replace(checkpoint, copies=copies), copies


def check_names(file: CheckpointFile, is_denoiser: bool) -> None:
    """Refuse a weight file by its tensors' names.

    Args:
        file: a file with opened weights.
        is_denoiser: whether it belongs to the denoiser; in any other component a value layer is itself a
            reason.

    Raises:
        UsageError: quantized, adapted, fused or joint-attention weights; value projections no naming
            explains.
    """
    assert file.weights is not None
    keys = file.weights.header.tensors
    if is_denoiser and (refused := refused_name(keys)):
        key, why = refused
        raise UsageError(file.path, f"{why.cause} ({key})", why.way_out)
    for key in keys:
        if value_like(key) and (not is_denoiser or value_name(key) is None):
            raise UsageError(
                file.path,
                f"the tensor {key} looks like a value layer, but is not where one is expected",
                "patch a checkpoint in a layout of the table in docs/checkpoints.md",
            )
    if is_denoiser:
        _check_blocks(file, set(keys))
        _check_precision(file)


def check_copy(copy: DenoiserCopy, neurons: NeuronSet, configuration: Mapping[str, Any]) -> None:
    """Refuse a copy that lacks a layer or row, is not floating point, or does not read the text.

    Raises:
        UsageError: with the copy's label, the layer, and what is wrong.
    """
    widths = text_widths(configuration)
    for name, layer in copy.layers.items():
        if layer.weight.dtype not in FLOATING:
            raise UsageError(
                copy.label, f"{name} is of dtype {layer.weight.dtype}", "give floating-point weights"
            )
        if len(layer.weight.shape) != 2 or (layer.bias and layer.bias.shape != (layer.rows,)):
            raise UsageError(
                copy.label, f"{name} has shape {list(layer.weight.shape)}", "give unpacked weights"
            )
        if widths is not None and layer.columns not in widths:
            raise UsageError(
                copy.label,
                f"{name} reads {layer.columns} numbers, not the text embedding's {sorted(widths)}",
                "no way around it: it is not text cross-attention",
            )
    for name, rows in neurons.items():
        if name not in copy.layers:
            known = f"it has {', '.join(sorted(copy.layers)[:3])}, ..." if copy.layers else "it has none"
            raise UsageError(name, f"{copy.label} has no such value layer", known)
        if rows[-1] >= copy.layers[name].rows:
            have = copy.layers[name].rows
            raise UsageError(
                name, f"{copy.label} has rows 0 to {have - 1}, not {rows[-1]}", "check the neurons"
            )


def _check_blocks(file: CheckpointFile, keys: set[str]) -> None:
    """The block table holds for two layers per block: then blocks 3, 6 and 9 are mere downsamplers."""
    for key in keys:
        for block in ("input_blocks.3.", "input_blocks.6.", "input_blocks.9."):
            if key.removeprefix("model.diffusion_model.").startswith(block) and ".0.op." not in key:
                raise UsageError(
                    file.path,
                    f"its block layout is not Stable Diffusion's ({key})",
                    "give the diffusers folder",
                )


def _check_precision(file: CheckpointFile) -> None:
    """Quantized weights are packed: a row of numbers is not a row of bytes, and scales lie elsewhere."""
    assert file.weights is not None
    way_out = "patch the unquantized checkpoint, then quantize it again"
    metadata = file.weights.header.metadata or {}
    if any("torchao" in text.lower() for pair in metadata.items() for text in pair):
        raise UsageError(file.path, "holds torchao-quantized weights", way_out)
    for name, tensor in file.weights.header.tensors.items():
        if len(tensor.shape) >= 2 and tensor.dtype in PACKED:
            raise UsageError(file.path, f"{name} is of dtype {tensor.dtype} (quantized)", way_out)
