"""May this checkpoint be patched, and what would be carried over? `patch` and `inspect` both ask here.

Every reason to refuse that lies in the checkpoint is found here, so that `inspect` never promises what
`patch` then refuses, but for one: second copies of the rows are found by reading all weights, which `patch`
does while it writes (`hidden_copies`), and `inspect` says that it does not. What lies in the wanted neurons
(a layer that is not there, another model's fingerprint) is `surgery.checkpoint.edit.plan`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.checkpoint.edit.edits import Change, FileEdits, ZeroRows, edits_by_file
from surgery.checkpoint.edit.refusals import patchable_copies, the_denoiser
from surgery.checkpoint.edit.side_files import check_link, check_side_file, kept_files
from surgery.checkpoint.names.denoisers import NO_WAY_OUT, check_configuration, class_name
from surgery.checkpoint.survey.declared import components_without_weights
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.family import denoiser_settings
from surgery.checkpoint.survey.roles import LEAVE_OUT, CheckpointFile
from surgery.checkpoint.survey.survey import PIPELINE, SINGLE, Checkpoint
from surgery.denoisers import feeding_refusal, open_text_paths
from surgery.errors import UsageError
from surgery.neurons import NeuronSet


@dataclass(frozen=True, slots=True)
class Judgement:
    """A checkpoint that may be patched.

    Attributes:
        checkpoint: its files carry their final action.
        component: the denoiser.
        copies: the denoiser copies that the output will hold.
        carried: the files that the output will hold, with their paths in it.
        edits: of each file that is edited: its path in the source -> what takes another content.
        left_out: the others.
        text_paths: how text goes round the value layers, one sentence each.
        warnings: what the user should know, the text paths among it.
    """

    checkpoint: Checkpoint
    component: str
    copies: tuple[DenoiserCopy, ...]
    carried: tuple[CheckpointFile, ...]
    edits: Mapping[str, FileEdits]
    left_out: tuple[CheckpointFile, ...]
    text_paths: tuple[str, ...]
    warnings: tuple[str, ...]


def judge(
    checkpoint: Checkpoint,
    neurons: NeuronSet | None = None,
    *,
    changes: Sequence[Change] = (),
    keep: Sequence[str] = (),
    follow_links: bool = False,
    strict: bool = False,
    output_name: str = "",
) -> Judgement:
    """Judge a checkpoint, or refuse it.

    Args:
        checkpoint: from `survey`.
        neurons: the rows to zero; None to ask about the checkpoint for whatever rows its copies share.
        changes: what is to become of the denoiser besides the zeroed rows.
        keep: files to carry over although no pipeline needs them.
        follow_links: carry over text files that symbolic links bring in from outside the checkpoint.
        strict: refuse a denoiser that text also enters by a way that zeroed rows cannot close.
        output_name: how a single file is called in the output (default: as in the source).

    Raises:
        UsageError: why it cannot be patched.
    """
    component = the_denoiser(checkpoint)
    shown = f"{component}/config.json".lstrip("/") if checkpoint.kind != SINGLE else checkpoint.source.name
    if component in checkpoint.configurations:
        check_configuration(checkpoint.configurations[component], shown)
    if checkpoint.kind == PIPELINE:
        declared = checkpoint.declared
        if refused := feeding_refusal(declared.pipeline, declared.components):
            raise UsageError("model_index.json", refused, NO_WAY_OUT)
    checkpoint, copies = patchable_copies(checkpoint, component, neurons or NeuronSet())
    paths = _text_paths(checkpoint, shown, strict)
    files = kept_files(checkpoint, keep)
    carried = tuple(file for file in files if file.action != LEAVE_OUT)
    if checkpoint.kind == SINGLE and output_name:
        carried = tuple(replace(file, output=output_name) for file in carried)
    _check_outputs(carried)
    for file in carried:
        if not file.holds_weights:
            check_side_file(file)
            if not follow_links:
                check_link(file, checkpoint.source.path)
    rows = ZeroRows(_ends_of_shared_layers(copies) if neurons is None else neurons)
    edits = edits_by_file(copies, [rows, *changes])
    warnings = [f"{shown}: {path}, which zeroed rows do not close" for path in paths]
    warnings += [
        f"{name}: declared in model_index.json, but it has no weights that could be carried over"
        for name in components_without_weights(checkpoint.declared, carried)
    ]
    warnings += [warning for file in carried if (warning := _dropped(file))]
    warnings += _differing_layers(copies)
    left_out = tuple(file for file in files if file.action == LEAVE_OUT)
    return Judgement(checkpoint, component, copies, carried, edits, left_out, tuple(paths), tuple(warnings))


def _text_paths(checkpoint: Checkpoint, shown: str, strict: bool) -> list[str]:
    settings = denoiser_settings(checkpoint)
    paths = open_text_paths(class_name(settings), settings)
    if paths and strict:
        raise UsageError(
            shown,
            f"text goes round the value layers, where zeroed rows do not stop it: {'; '.join(paths)}",
            "without --strict, what can be reached is patched",
        )
    return paths


def _ends_of_shared_layers(copies: Sequence[DenoiserCopy]) -> NeuronSet:
    """The first and the last row of every value layer that all copies hold in the same shape."""
    shared = {}
    for name, layer in copies[0].layers.items() if copies else ():
        alike = [name in copy.layers and copy.layers[name].rows == layer.rows for copy in copies]
        if layer.rows and all(alike):
            shared[name] = sorted({0, layer.rows - 1})
    return NeuronSet(shared)


def _differing_layers(copies: Sequence[DenoiserCopy]) -> list[str]:
    """Copies may disagree; neurons in a layer that one of them lacks are refused."""
    everywhere = set.intersection(*(set(copy.layers) for copy in copies)) if copies else set()
    somewhere = {name for copy in copies for name in copy.layers} - everywhere
    if not somewhere:
        return []
    return [f"not every copy has {sorted(somewhere)[0]}: neurons in such layers are refused"]


def _dropped(file: CheckpointFile) -> str:
    """What a pickle holds besides tensors is not carried over; say so."""
    dropped = dict.fromkeys(getattr(file.weights, "dropped", ()))
    names = [name if name.isprintable() else ascii(name) for name in dropped]
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{file.path}: only tensors are carried over, not {shown}" if names else ""


def _check_outputs(carried: Sequence[CheckpointFile]) -> None:
    seen: dict[str, str] = {}
    for file in carried:
        folded = file.output.casefold()  # two names that a case-blind disk takes for one
        if folded in seen:
            raise UsageError(
                file.path,
                f"would be written to the same file as {seen[folded]}",
                "remove or rename one of them",
            )
        seen[folded] = file.path
