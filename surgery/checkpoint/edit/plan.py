"""From a surveyed checkpoint and the wanted changes to a plan: which file is written how, with which edits.

Every refusal happens here or in `surgery.checkpoint.edit.judgement`, before the first byte is written. The
plan covers every copy of the denoiser that the output will hold; a copy that cannot be patched is either
refused (where the pipeline may load it) or left out (a further single file at the root).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgery.checkpoint.edit.edits import Change, FileEdits
from surgery.checkpoint.edit.judgement import judge
from surgery.checkpoint.edit.trained import ReplaceTensors
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
from surgery.checkpoint.survey.fingerprint import match_copies
from surgery.checkpoint.survey.roles import CheckpointFile
from surgery.checkpoint.survey.survey import Checkpoint
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
        text_paths: how text goes round the value layers, one sentence each.
        warnings: what the user should know.
        trained: of an edit that trained tensors: what the manifest says of its file.
    """

    checkpoint: Checkpoint
    neurons: NeuronSet
    tasks: tuple[FileTask, ...]
    copies: tuple[DenoiserCopy, ...]
    left_out: tuple[CheckpointFile, ...]
    fingerprint: str
    text_paths: tuple[str, ...]
    warnings: tuple[str, ...]
    trained: Mapping[str, Any] = field(default_factory=dict)

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
    strict: bool = False,
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
        strict: refuse a denoiser that text also enters by a way that zeroed rows cannot close.
        output_name: how a single file is called in the output (default: as in the source).
        changes: what is to become of the denoiser besides the zeroed rows.

    Raises:
        UsageError: for every reason in the tables of docs/checkpoints.md; nothing has been written.
    """
    if not neurons.count and not changes:
        raise UsageError("neurons", "there is no neuron to zero", "give at least one row")
    judged = judge(
        checkpoint,
        neurons,
        changes=changes,
        keep=keep,
        follow_links=follow_links,
        strict=strict,
        output_name=output_name,
    )
    copies = judged.copies
    found_in, strangers = _check_fingerprint(
        judged.checkpoint, copies, judged.component, fingerprint, any_model
    )
    tasks = tuple(
        FileTask(file, judged.edits.get(file.path, FileEdits()), _value_tensors(file, copies))
        for file in judged.carried
    )
    return Plan(
        judged.checkpoint,
        neurons,
        tasks,
        copies,
        judged.left_out,
        found_in,
        judged.text_paths,
        (*judged.warnings, *strangers),
        next((change.facts for change in changes if isinstance(change, ReplaceTensors)), {}),
    )


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
