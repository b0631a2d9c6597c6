"""The inputs of an audit, read and checked before the first forward, and the state it goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surgery.auditing.bench import Bench
from surgery.auditing.budget import Budget
from surgery.auditing.controls import Control, GivenControls, captioned, read_controls
from surgery.auditing.findings import Findings
from surgery.auditing.identity import changed_rows, describe, digest, neuron_counts, prompt_id
from surgery.auditing.measures.quality import ClipScore, feature_extractor
from surgery.auditing.measures.sscd import sscd_similarity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import Store
from surgery.corpus import PromptCorpus, collect_prompts, read_prompts
from surgery.denoisers import BLOCKS
from surgery.errors import UsageError
from surgery.files import expanded
from surgery.measures.pictures import picture_size, read_pictures
from surgery.measures.similarity import AUTO, Similarity, default_name, named_similarity
from surgery.measures.subjects import subjects_from
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.model.value_layers import value_layers
from surgery.ordinary import evenly, ordinary_besides
from surgery.processes import Processes


@dataclass(frozen=True)
class Extras:
    """Inputs of an audit that are not settings: all of them optional, all of them the user's own files.

    Attributes:
        neurons: the `neurons.json` that PATCHED was made with, for the neuron map.
        clip: folder of a CLIP model, for the CLIP score.
        reference: folder of reference pictures, for FID and KID.
        features: TorchScript feature extractor for them.
        command: the exact command, for the report.
    """

    neurons: str | Path | None = None
    clip: str | Path | None = None
    reference: str | Path | None = None
    features: str | Path | None = None
    command: str = ""


@dataclass(frozen=True)
class AuditInputs:
    """What an audit is asked; `surgery.auditing.audit.audit` says what each of them may be."""

    source: Any
    patched: Any
    prompts: str | Path | Sequence[str]
    images: str | Path | Mapping[str, Any] | None = None
    masks: Mapping[str, Any] | None = None
    control_images: GivenControls | None = None
    ordinary_file: str | Path | None = None
    twin: Any = None
    base: Any = None
    settings: AuditSettings = field(default_factory=AuditSettings)
    extras: Extras = field(default_factory=Extras)
    include_private: bool = False
    max_forwards: int | None = None
    device: str | None = None
    dtype: str | None = None
    quiet: bool = True


@dataclass(frozen=True)
class Prepared:
    """An audit that can start.

    Attributes:
        findings: still without measurements.
        bench: the models, how they are measured, and what was measured before.
        size: (height, width) in pixels of all pictures.
        controls: the control images; None where SOURCE is to make them.
    """

    findings: Findings
    bench: Bench
    size: tuple[int, int]
    controls: list[Control] | None


def output_folder(output: str | Path) -> Path:
    """The output folder, which need not exist yet.

    Raises:
        UsageError: it is a file, or holds a finished audit.
    """
    folder = expanded(output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(folder, "is a file", "give a folder")
    if (folder / "audit.json").exists() and not (folder / "state").exists():
        raise UsageError(folder, "holds a finished audit", "give another output folder")
    return folder


def prepare(inputs: AuditInputs, folder: Path, processes: Processes) -> Prepared:
    """Read and check every input, and open the store in the output folder.

    Raises:
        UsageError: an input is bad, the models differ in more than weights, or the state is of another audit.
        SurgeryError: a model cannot be run.
    """
    settings = inputs.settings
    corpus = read_corpus(inputs.prompts)
    source, patched, twin, base = (
        None if one is None else load_pipeline(one, inputs.device, inputs.dtype)
        for one in (inputs.source, inputs.patched, inputs.twin, inputs.base)
    )
    assert source is not None and patched is not None
    similarity = _similarity(settings, source)
    zeroed, others = changed_rows(source, patched)
    described = {
        "source": describe(source, inputs.include_private),
        "patched": describe(patched, inputs.include_private),
    }
    named = {"patched": patched, "twin": twin, "base": base}
    others_given = {name: model for name, model in named.items() if model is not None}
    for name, model in others_given.items():
        if model.latent_shape != source.latent_shape:
            raise UsageError(model.source, f"the {name}'s latents differ in shape from SOURCE's", "")
        if name != "patched":
            changed_rows(source, model)  # refuses another architecture
            described[name] = describe(model, inputs.include_private)
    size = picture_size(source)
    subjects = subjects_from(corpus.prompts, inputs.images, inputs.masks, size)
    chosen, origin = _chosen_ordinary(inputs, source, corpus)
    controls = read_controls(inputs.control_images, size)
    if controls is not None:
        controls = captioned(controls, chosen)
    _check_extras(inputs.extras, size)
    found_for = neuron_counts(inputs.extras.neurons, settings.audit_seeds)
    header = {
        "settings": settings.measured_with(),
        "models": digest([(one["fingerprint"], one["sha256"]) for one in described.values()]),
        "zeroed": digest(zeroed.as_json(), others),
        "prompts": digest(corpus.prompts),
        "images": digest(*(subject.image for subject in subjects)),
        "masks": digest(*(subject.mask for subject in subjects)),
        "controls": None
        if controls is None
        else digest(*(part for one in controls for part in (one.caption, one.image))),
        "ordinary": digest(chosen),
    }
    store = _opened(folder, header, processes)
    findings = Findings(
        settings=settings,
        similarity=similarity,
        subjects=subjects,
        ids=[prompt_id(subject.prompt, store.salt) for subject in subjects],
        ordinary_prompts=chosen,
        public_ordinary=inputs.ordinary_file is None,
        has_twin=twin is not None,
        control_kind="generated" if controls is None else "given",
        zeroed=zeroed,
        otherwise_changed=others,
        layer_rows={
            name: layer.out_features for name, layer in value_layers(source.denoiser, BLOCKS).items()
        },
        found_for=found_for,
        models=described,
        corpus={
            **corpus.counts(),
            "with_image": sum(subject.image is not None for subject in subjects),
            "ordinary_from": origin,
            "controls": settings.controls if controls is None else len(controls),
        },
        command=inputs.extras.command,
    )
    budget = Budget(inputs.max_forwards)
    bench = Bench(source, patched, settings, similarity, store, budget, inputs.quiet, twin, base, processes)
    return Prepared(findings, bench, size, controls)


def _opened(folder: Path, header: Mapping[str, Any], processes: Processes) -> Store:
    """The store, made by process 0; the others find it, and the same inputs."""
    if processes.is_main:
        store = Store(folder, header)
        _ = store.salt
    processes.gather(None)
    processes.check_shared(folder)
    return store if processes.is_main else Store(folder, header)


def read_corpus(prompts: str | Path | Sequence[str]) -> PromptCorpus:
    """The audited prompts.

    Raises:
        UsageError: there are none, or the file cannot be read.
    """
    corpus = read_prompts(prompts) if isinstance(prompts, str | Path) else collect_prompts(prompts)
    if not corpus.prompts:
        raise UsageError("prompts", "there are none", "give at least one caption")
    return corpus


def _similarity(settings: AuditSettings, model: LiveModel) -> Similarity:
    """The measure that the settings name, with their threshold where they give one."""
    name = default_name(*picture_size(model)) if settings.similarity == AUTO else settings.similarity
    found = named_similarity(name) if settings.sscd is None else sscd_similarity(settings.sscd, model.device)
    return found if settings.threshold is None else replace(found, threshold=settings.threshold)


def _chosen_ordinary(inputs: AuditInputs, source: LiveModel, corpus: PromptCorpus) -> tuple[list[str], str]:
    """The ordinary prompts that are looked at, none of them audited, and where they came from."""
    candidates, origin = ordinary_besides(corpus.prompts, source.source, inputs.ordinary_file)
    return evenly(candidates, inputs.settings.ordinary), origin


def _check_extras(extras: Extras, size: tuple[int, int]) -> None:
    """Refuse now what could not be used at the end."""
    if (extras.reference is None) != (extras.features is None):
        raise UsageError(
            "FID and KID",
            "need a feature extractor and reference pictures",
            "give --fid-reference and --fid-features",
        )
    if extras.reference is not None and extras.features is not None:
        read_pictures(extras.reference, *size)
        feature_extractor(extras.features)
    if extras.clip is not None:
        ClipScore(extras.clip)
