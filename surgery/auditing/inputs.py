"""The inputs of an audit, read and checked before the first forward, and the state it goes on from."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from surgery.auditing.budget import Budget
from surgery.auditing.findings import Findings
from surgery.auditing.identity import changed_rows, describe, digest, neuron_counts, prompt_id
from surgery.auditing.measures.pictures import picture_size
from surgery.auditing.measures.quality import ClipScore, feature_extractor
from surgery.auditing.measures.similarity import Similarity, named_similarity
from surgery.auditing.measures.sscd import sscd_similarity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.stages import Bench
from surgery.auditing.store import Store
from surgery.auditing.subjects import read_control_images, subjects_from
from surgery.corpus import PromptCorpus
from surgery.denoisers import BLOCKS
from surgery.errors import UsageError
from surgery.files import expanded
from surgery.model.pipeline import LiveModel
from surgery.model.value_layers import value_layers
from surgery.ordinary import ordinary_prompts


@dataclass(frozen=True)
class Extras:
    """Inputs of an audit that are not settings: all of them optional, all of them the user's own files.

    Attributes:
        neurons: the `neurons.json` that PATCHED was made with, for the neuron map.
        clip: folder of a CLIP model, for the CLIP score.
        reference, features: folder of reference pictures and TorchScript feature extractor, for FID and KID.
        command: the exact command, for the report.
    """

    neurons: str | Path | None = None
    clip: str | Path | None = None
    reference: str | Path | None = None
    features: str | Path | None = None
    command: str = ""


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


def similarity_from(settings: AuditSettings, model: LiveModel) -> Similarity:
    """The measure that the settings name, with their threshold where they give one."""
    found = (
        named_similarity(settings.similarity)
        if settings.sscd is None
        else sscd_similarity(settings.sscd, model.device)
    )
    return found if settings.threshold is None else replace(found, threshold=settings.threshold)


def check_extras(extras: Extras, size: tuple[int, int]) -> None:
    """Refuse now what could not be used at the end.

    Raises:
        UsageError: a file of the quality measures is missing or is not what it should be.
    """
    if (extras.reference is None) != (extras.features is None):
        raise UsageError(
            "FID and KID",
            "need a feature extractor and reference pictures",
            "give --fid-reference and --fid-features",
        )
    if extras.reference is not None and extras.features is not None:
        read_control_images(extras.reference, size)
        feature_extractor(extras.features)
    if extras.clip is not None:
        ClipScore(extras.clip)


def prepare(
    models: tuple[LiveModel, ...],
    corpus: PromptCorpus,
    images: Any,
    masks: Any,
    control_images: Any,
    ordinary_file: Any,
    folder: Path,
    settings: AuditSettings,
    similarity: Similarity,
    extras: Extras,
    include_private: bool,
    quiet: bool,
) -> tuple[Findings, Bench, list[torch.Tensor] | None]:
    """Read and check every input, and open the store.

    Returns:
        The findings, still without measurements; the bench; the control images, None where they are to be
        made.

    Raises:
        UsageError: an input is bad, the models differ in more than weights, or the state is of another audit.
    """
    source, patched = models
    zeroed, others = changed_rows(source, patched)
    described = {"source": describe(source, include_private), "patched": describe(patched, include_private)}
    if source.latent_shape != patched.latent_shape:
        raise UsageError(patched.source, "its latents differ in shape from the source's", "")
    size = picture_size(source)
    subjects = subjects_from(corpus.prompts, images, masks, size)
    listed, origin = ordinary_prompts(source.source, ordinary_file)
    audited = set(corpus.prompts)
    # spread over the list: such lists are often sorted by kind
    candidates = [prompt for prompt in listed if prompt not in audited]
    stride = max(1, len(candidates) // max(1, settings.ordinary))
    chosen = candidates[::stride][: settings.ordinary]
    controls = None
    if control_images is not None:
        is_folder = isinstance(control_images, str | Path)
        controls = read_control_images(control_images, size) if is_folder else list(control_images)
    check_extras(extras, size)
    found_for = neuron_counts(extras.neurons, settings.audit_seeds)
    header = {
        "settings": settings.measured_with(),
        "models": digest([(one["fingerprint"], one["sha256"]) for one in described.values()]),
        "zeroed": digest(zeroed.as_json(), others),
        "prompts": digest(corpus.prompts),
        "images": digest(*(one.image if one.image is not None else None for one in subjects)),
        "masks": digest(*(one.mask if one.mask is not None else None for one in subjects)),
        "controls": digest(*controls) if controls is not None else None,
        "ordinary": digest(chosen),
    }
    store = Store(folder, header)
    salt = (store.load("salt") or {}).get("salt") or secrets.token_hex(16)
    store.save("salt", {"salt": salt})
    store.resumed = 0
    findings = Findings(
        settings=settings,
        similarity=similarity,
        subjects=subjects,
        ids=[prompt_id(subject.prompt, salt) for subject in subjects],
        ordinary_prompts=chosen,
        public_ordinary=ordinary_file is None,
        replication=[],
        ordinary=[],
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
    )
    bench = Bench(source, patched, settings, similarity, store, Budget(), quiet)
    return findings, bench, controls
