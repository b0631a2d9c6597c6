"""From a surveyed checkpoint and the wanted changes to a plan: which file is written how, with which edits.

Every refusal but one happens here, before the first byte is written; the search for hidden copies reads as
much as the copy does, so that it runs beside it (`hidden_copies`). The plan covers every copy of the denoiser
that the output will hold; a copy that cannot be patched is either refused (where the pipeline may load it) or
left out (a further single file at the root).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from surgery.checkpoint.edit.edits import Change, FileEdits, ZeroRows, edits_by_file
from surgery.checkpoint.edit.refusals import patchable_copies, the_denoiser
from surgery.checkpoint.edit.side_files import check_link, check_side_file, kept_files
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.names.denoisers import check_configuration
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.fingerprint import match_copies
from surgery.checkpoint.survey.roles import LEAVE_OUT, CheckpointFile
from surgery.checkpoint.survey.survey import SINGLE, Checkpoint
from surgery.errors import UsageError
from surgery.neurons import NeuronSet


@dataclass(frozen=True, slots=True)
class FileTask:
    """One file to write.

    Attributes:
        file: its source, action, and path in the output.
        edits: what takes another content in it.
        value_tensors: the weights and biases of all value layers in it, in the order of their bytes.
    """

    file: CheckpointFile
    edits: FileEdits
    value_tensors: tuple[Tensor, ...]

    @property
    def output_bytes(self) -> int:
        """The size of the file in the output."""
        return self.file.weights.header.file_bytes if self.file.weights else self.file.bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything `patch` will do.

    Attributes:
        checkpoint: the source; its files carry their final action.
        neurons: what is zeroed in every copy.
        tasks: the files to write.
        copies: the denoiser copies that the output will hold.
        left_out: the files that are not carried over.
        fingerprint: `matches`, `differs` (overridden by the user) or `not given`.
        warnings: what the user should know.
    """

    checkpoint: Checkpoint
    neurons: NeuronSet
    tasks: tuple[FileTask, ...]
    copies: tuple[DenoiserCopy, ...]
    left_out: tuple[CheckpointFile, ...]
    fingerprint: str
    warnings: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """How many bytes will be written."""
        return sum(task.output_bytes for task in self.tasks)


def make_plan(
    checkpoint: Checkpoint,
    neurons: NeuronSet,
    *,
    fingerprint: Mapping[str, Any] | None = None,
    any_model: bool = False,
    keep: Sequence[str] = (),
    follow_links: bool = False,
    output_name: str = "",
    changes: Sequence[Change] = (),
) -> Plan:
    """Decide what to write, or refuse.

    Args:
        checkpoint: from `survey`, pickles opened.
        neurons: the rows to zero.
        fingerprint: of the model the neurons were found in; None when unknown.
        any_model: go on although the fingerprint differs.
        keep: files to carry over although no pipeline needs them.
        follow_links: carry over text files that symbolic links bring in from outside the checkpoint.
        output_name: how a single file is called in the output (default: as in the source).
        changes: what is to become of the denoiser besides the zeroed rows.

    Raises:
        UsageError: for every reason in the README's table of refusals; nothing has been written.
    """
    if not neurons.count and not changes:
        raise UsageError("neurons", "there is no neuron to zero", "give at least one row")
    component = the_denoiser(checkpoint)
    warnings = []
    if component in checkpoint.configurations:
        shown = f"{component}/config.json".lstrip("/")
        warnings += check_configuration(checkpoint.configurations[component], shown)
    checkpoint, copies = patchable_copies(checkpoint, component, neurons)
    found_in, strangers = _check_fingerprint(checkpoint, copies, component, fingerprint, any_model)
    warnings += strangers
    files = kept_files(checkpoint, keep)
    edits = edits_by_file(copies, [ZeroRows(neurons), *changes])
    carried = [file for file in files if file.action != LEAVE_OUT]
    if checkpoint.kind == SINGLE and output_name:
        carried = [replace(file, output=output_name) for file in carried]
    warnings += [warning for file in carried if (warning := _dropped(file))]
    tasks = tuple(
        FileTask(file, edits.get(file.path, FileEdits()), _value_tensors(file, copies)) for file in carried
    )
    _check_outputs(tasks)
    for file in carried:
        if file.weights is None:
            check_side_file(file)
            if not follow_links:
                check_link(file, checkpoint.source.path)
    left_out = tuple(file for file in files if file.action == LEAVE_OUT)
    return Plan(checkpoint, neurons, tasks, copies, left_out, found_in, tuple(warnings))


def _check_fingerprint(
    checkpoint: Checkpoint,
    copies: tuple[DenoiserCopy, ...],
    component: str,
    fingerprint: Mapping[str, Any] | None,
    any_model: bool,
) -> tuple[str, list[str]]:
    if fingerprint is None:
        return "not given", []
    matches = match_copies(checkpoint, fingerprint)
    # EMA and non-EMA weights differ, yet their rows play the same part: one matching copy vouches for all
    own = [matches[copy.label] for copy in copies if copy.component == component]
    if None in own:
        strangers = [
            f"{label}: {cause} (other weights of the same model?)"
            for label, cause in matches.items()
            if cause
        ]
        return "matches", strangers
    if any_model:
        return "differs", [f"the neurons were found in another model: {own[0]}"]
    raise UsageError(
        "neurons",
        f"they were found in another model: {own[0]}",
        "localize in this model, or pass --any-model",
    )


def _value_tensors(file: CheckpointFile, copies: tuple[DenoiserCopy, ...]) -> tuple[Tensor, ...]:
    places = [place for copy in copies for layer in copy.layers.values() for place in layer.tensors()]
    return tuple(
        sorted((tensor for path, tensor in places if path == file.path), key=lambda each: each.begin)
    )


def _dropped(file: CheckpointFile) -> str:
    """What a pickle holds besides tensors is not carried over; say so."""
    dropped = dict.fromkeys(getattr(file.weights, "dropped", ()))
    names = [name if name.isprintable() else ascii(name) for name in dropped]
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{file.path}: only tensors are carried over, not {shown}" if names else ""


def _check_outputs(tasks: tuple[FileTask, ...]) -> None:
    seen: dict[str, str] = {}
    for task in tasks:
        folded = task.file.output.casefold()  # two names that a case-blind disk takes for one
        if folded in seen:
            raise UsageError(
                task.file.path,
                f"would be written to the same file as {seen[folded]}",
                "remove or rename one of them",
            )
        seen[folded] = task.file.path
