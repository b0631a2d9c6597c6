"""Harden: train memories out of the weights where zeroed rows only hide them; the result is an edit.

1. Gather what to train on, from the model itself (`surgery.hardening.material`).
2. Climb the ladder until the gate holds (`surgery.hardening.ladder`).
3. Write the edit: rows to zero, and the trained tensors (`surgery.checkpoint.edit.edit_file`).

`surgery patch SOURCE EDIT -o OUT` applies it to every copy of the denoiser, `surgery diff SOURCE OUT --plan
EDIT` proves that nothing else changed, `surgery audit SOURCE OUT` judges with attacks that never fed back
here. After "Finding DoRI" (arXiv 2507.16880), section 5, which trains against attacked embeddings alone; an
attack on the outputs of cross-attention is added, for models hardened without it keep their images.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.auditing.identity import digest, prompt_id
from surgery.checkpoint.edit.edit_file import write_edit
from surgery.corpus import collect_prompts, read_prompts
from surgery.denoisers import BLOCKS
from surgery.errors import UsageError
from surgery.files import expanded, json_text, write_atomically
from surgery.fingerprint import difference
from surgery.hardening.dealing import Dealer
from surgery.hardening.ladder import Bench, Rung, climb
from surgery.hardening.material import gather
from surgery.hardening.settings import HardenSettings
from surgery.hardening.state import State
from surgery.measures.pictures import picture_size
from surgery.measures.similarity import Similarity, named_similarity
from surgery.measures.subjects import Subject, subjects_from
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.model.value_layers import denoiser_fingerprint, value_layers
from surgery.model.work import Work
from surgery.neurons import NeuronSet, load_neurons
from surgery.ordinary import ordinary_besides
from surgery.processes import Processes
from surgery.versions import audit_versions

FORMAT = "surgery.hardening/1"
RECORD_NAME = "hardening.json"


@dataclass(frozen=True)
class HardenResult:
    """What hardening did.

    Attributes:
        holds: whether the gate holds on the rung where it ended.
        rungs: those that were climbed, the last one is the result.
        edit: the folder of the edit; None where nothing was written.
        document: the content of `hardening.json`.
    """

    holds: bool
    rungs: tuple[Rung, ...]
    edit: Path | None
    document: dict[str, Any]


def harden(
    source: Any,
    prompts: str | Path | Sequence[str],
    output: str | Path,
    neurons: NeuronSet | Mapping[str, Sequence[int]] | str | Path | None = None,
    images: str | Path | Mapping[str, Any] | None = None,
    masks: Mapping[str, Any] | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
    ordinary_file: str | Path | None = None,
    settings: HardenSettings | None = None,
    similarity: str | None = None,
    keep_going: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    processes: Processes | None = None,
    quiet: bool = True,
) -> HardenResult:
    """Train memories out of a model and write the edit that does it.

    Args:
        source: the model, as `load_pipeline` takes it.
        prompts: the memories' captions: a corpus file, or a list.
        output: the edit's folder; it must not exist, its parent must.
        neurons: what `localize` found; None for none: then every prompt is hardened as an unresolved one.
        images: the memories' pictures (`surgery.measures.subjects.subjects_from`), only to attack for; where
            one is missing, SOURCE's own replica stands in.
        masks: for images given as a mapping.
        data: further pictures with captions that must stay as they are: a folder with `images.csv`, or
            caption -> picture.
        ordinary_file: ordinary prompts; None: those beside SOURCE, or those of this package.
        settings: default `HardenSettings()`.
        similarity: the measure; None: the one that fits the size of the pictures.
        keep_going: write the edit although the gate does not hold.
        device: as for `load_pipeline`.
        dtype: "float32" or "mixed-bfloat16".
        processes: this process among those of the launcher, which share the work; default: the only one. They
            must see the same folders.
        quiet: no progress bars.

    Returns:
        What was done, the same on every process. Where the gate does not hold and `keep_going` is not set,
        nothing is written but the state, from which the same call goes on, also with more `rounds`.

    Raises:
        UsageError: bad inputs, an output that exists, the state of another run.
        SurgeryError: the model cannot be run.
    """
    settings = settings or HardenSettings()
    processes = processes or Processes()
    quiet = quiet or not processes.is_main
    folder = check_edit_output(output)
    model = load_pipeline(source, device, dtype)
    _check_precision(model)
    found, fingerprint = (NeuronSet(), None) if neurons is None else load_neurons(neurons)
    _check_neurons(model, found, fingerprint)
    subjects = _subjects(model, prompts, images, masks)
    ordinary, _ = ordinary_besides((one.prompt for one in subjects), model.source, ordinary_file)
    measure = _similarity(similarity, model)
    pictures = _data(data, model)
    state = _opened(
        folder.with_name(f".{folder.name}.hardening"),
        processes,
        {
            # a run whose rounds were not enough goes on with more of them
            "settings": {name: value for name, value in settings.as_json().items() if name != "rounds"},
            "model": digest(denoiser_fingerprint(model.denoiser)),
            "neurons": found.as_json(),
            "prompts": digest([subject.prompt for subject in subjects]),
            "images": digest(*(subject.image for subject in subjects)),
            "masks": digest(*(subject.mask for subject in subjects)),
            "data": digest([caption for caption, _ in pictures], *(picture for _, picture in pictures)),
            "ordinary": digest(ordinary),
        },
    )
    dealer = Dealer(Work(), processes)
    material = gather(model, subjects, found, ordinary, pictures, measure, settings, dealer)
    gathered = dealer.work.unet_sample_forwards
    bench = Bench(model, material, found, measure, settings, state, dealer, quiet)
    rungs = tuple(climb(bench))
    is_written = rungs[-1].gate.holds or keep_going
    document: dict[str, Any] = {}
    if processes.is_main:
        document = _document(bench, rungs, subjects, gathered)
        if is_written:
            _write(folder, bench, rungs[-1], document)
            state.remove()
    document = processes.from_main(document)
    return HardenResult(rungs[-1].gate.holds, rungs, folder if is_written else None, document)


def check_edit_output(output: str | Path) -> Path:
    """Where an edit may be written.

    Raises:
        UsageError: it exists, or its parent does not.
    """
    folder = expanded(output)
    if folder.exists():
        raise UsageError(folder, "exists", "give a new folder for the edit")
    if not folder.parent.is_dir():
        raise UsageError(folder.parent, "no such folder", "make it first")
    return folder


def _opened(folder: Path, processes: Processes, header: Mapping[str, Any]) -> State:
    """The state, made by process 0; the others find it, and the same inputs."""
    state = State(folder, header) if processes.is_main else None
    processes.gather(None)
    processes.check_shared(folder)
    return state or State(folder, header)


def _check_precision(model: LiveModel) -> None:
    if model.dtype != torch.float32 or model.computes_in == torch.float16:
        raise UsageError(
            "--dtype",
            f"{model.computes_in} does not train",
            "give float32, or mixed-bfloat16 on an accelerator",
        )


def _check_neurons(model: LiveModel, neurons: NeuronSet, fingerprint: Mapping[str, Any] | None) -> None:
    layers = value_layers(model.denoiser, BLOCKS)
    for name, rows in neurons.items():
        if name not in layers or rows[-1] >= layers[name].out_features:
            raise UsageError(name, "has no such row in this model", "localize in this model")
    if fingerprint is None:
        return
    if cause := difference(fingerprint, denoiser_fingerprint(model.denoiser)):
        raise UsageError("neurons", f"they were found in another model: {cause}", "localize in this model")


def _subjects(
    model: LiveModel,
    prompts: str | Path | Sequence[str],
    images: str | Path | Mapping[str, Any] | None,
    masks: Mapping[str, Any] | None,
) -> list[Subject]:
    corpus = read_prompts(prompts) if isinstance(prompts, str | Path) else collect_prompts(prompts)
    if not corpus.prompts:
        raise UsageError("prompts", "there are none", "give at least one caption")
    return subjects_from(corpus.prompts, images, masks, picture_size(model))


def _data(data: str | Path | Mapping[str, Any] | None, model: LiveModel) -> list[tuple[str, torch.Tensor]]:
    """Captions and pictures that must stay as they are."""
    if data is None:
        return []
    from surgery.auditing.controls import read_controls

    given = read_controls(data, picture_size(model)) or []
    if any(not one.caption for one in given):
        raise UsageError(data, "holds a picture without a caption", "write images.csv: prompt,image")
    return [(one.caption, one.image) for one in given]


def _similarity(name: str | None, model: LiveModel) -> Similarity:
    from surgery.measures.similarity import default_name

    return named_similarity(name or default_name(*picture_size(model)))


def _document(
    bench: Bench, rungs: Sequence[Rung], subjects: Sequence[Subject], gathered: int
) -> dict[str, Any]:
    """`hardening.json`: what was done and what it cost; prompts by hashes whose salt is thrown away."""
    salt = secrets.token_hex(16)
    return {
        "format": FORMAT,
        "holds": rungs[-1].gate.holds,
        "rung": rungs[-1].name,
        "prompts": [
            {
                "id": prompt_id(subject.prompt, salt),
                "resolved_by_rows": memory.resolved,
                "leaking_neighbors": len(memory.leaks) - (not memory.resolved),
            }
            for subject, memory in zip(subjects, bench.material.memories, strict=True)
        ],
        "rungs": [
            {
                "name": rung.name,
                "gate": rung.gate.as_json(),
                "rounds": [{"terms": one["terms"], "stages": one["stages"]} for one in rung.rounds],
            }
            for rung in rungs
        ],
        "work": {"sample_forwards": bench.work.unet_sample_forwards, "gathered": gathered},
        "settings": bench.settings.as_json(),
        "similarity": {"name": bench.similarity.name, "threshold": bench.similarity.threshold},
        "versions": audit_versions(),
    }


def _write(folder: Path, bench: Bench, rung: Rung, document: Mapping[str, Any]) -> Path:
    """The edit and its record, in a hidden folder first: an edit is there whole or not at all."""
    staging = folder.with_name(f".{folder.name}.part")
    write_edit(
        staging,
        bench.neurons,
        {name: tensor.numpy() for name, tensor in rung.tensors.items()},
        fingerprint=denoiser_fingerprint(bench.source.denoiser),
        rung=rung.name,
        settings=bench.settings.as_json(),
        versions=audit_versions(),
    )
    write_atomically(staging / RECORD_NAME, json_text(document).encode())
    staging.replace(folder)
    return folder
