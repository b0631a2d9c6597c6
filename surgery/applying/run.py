"""A recipe under way: what its steps share. Models are loaded when the first step asks for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.applying.hashes import digest_of, files_below
from surgery.applying.ledger import Ledger
from surgery.applying.request import Request
from surgery.checkpoint.edit.edit_file import DOCUMENT_NAME, TENSORS_NAME
from surgery.localization.records import NOT_MEMORIZED
from surgery.neurons import NeuronSet, read_neurons_document
from surgery.processes import Processes

if TYPE_CHECKING:
    from surgery.model.pipeline import LiveModel

NEURONS, CALIBRATION, EDIT, AUDIT = "neurons.json", "calibration.safetensors", "edit", "audit"


@dataclass
class Run:
    """One application of a recipe.

    Attributes:
        request: what is asked.
        ledger: what was done; only process 0 writes it.
        processes: this process among those of the launcher.
        facts: step -> what it found, in this run or an earlier one.
    """

    request: Request
    ledger: Ledger
    processes: Processes = field(default_factory=Processes)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """The working folder."""
        return self.request.work

    @cached_property
    def live(self) -> LiveModel:
        """The source, live."""
        from surgery.model.pipeline import load_pipeline

        request = self.request
        return load_pipeline(
            str(request.located.path),
            request.device,
            request.dtype,
            variant=request.recipe.model.variant,
        )

    @cached_property
    def number_type(self) -> str:
        """What the live model computes in, without loading it."""
        from surgery.model.pipeline import type_name

        return type_name(self.request.device, self.request.dtype)

    def release(self) -> None:
        """Let go of the live source: a step that needs the memory comes next."""
        self.__dict__.pop("live", None)

    @property
    def neurons_file(self) -> Path:
        """The neurons: given with the recipe, or found."""
        return self.request.files.get("neurons", self.work / NEURONS)

    @property
    def calibration_file(self) -> Path:
        """The calibration: given with the recipe, or made."""
        return self.request.files.get("calibration", self.work / CALIBRATION)

    @property
    def audit_file(self) -> Path:
        """The audit's document."""
        return self.work / AUDIT / "audit.json"

    @property
    def plan(self) -> Path:
        """What `patch` applies: the neurons, or the edit that `harden` made."""
        return self.neurons_file if self.request.recipe.harden is None else self.work / EDIT

    def neurons(self) -> NeuronSet:
        """The rows to zero."""
        return NeuronSet(read_neurons_document(self.neurons_file)["layers"])

    def memorized(self) -> list[str]:
        """The captions that localization calls memorized; all captions, where it was not asked."""
        records = read_neurons_document(self.neurons_file).get("prompts")
        if not isinstance(records, list) or not records:
            return self.request.prompts
        wanted = {
            record.get("prompt")
            for record in records
            if isinstance(record, dict) and record.get("outcome") != NOT_MEMORIZED
        }
        return [prompt for prompt in self.request.prompts if prompt in wanted]

    def pictures(self, prompts: Sequence[str]) -> dict[str, Any]:
        """`images` and `masks` of some of the prompts, as `surgery.audit` and `surgery.harden` take them.

        Files that are named after numbers count in the whole corpus, whichever of its prompts are asked for.
        """
        if "images" not in self.request.files:
            return {}
        from surgery.measures.subjects import folder_mapping

        wanted = set(prompts)
        images, masks = (
            {prompt: path for prompt, path in found.items() if prompt in wanted}
            for found in folder_mapping(self.request.files["images"], self.request.prompts)
        )
        return {"images": images, "masks": masks} if images else {}

    def folder_id(self, name: str) -> Any:
        """Path -> sha256 of every file of a folder (or of the file) that the recipe names; None for none."""
        path = self.request.files.get(name)
        if path is None or path.is_file():
            return None if path is None else self.ledger.hashes.of(path)
        return self.ledger.hashes.of_folder(path, files_below(path))

    def model_id(self) -> dict[str, str | None]:
        """Path -> sha256 of every file of the source that a pipeline loads or `patch` carries over."""
        keep = set(self.request.recipe.patch.keep)
        carried = [file for file in self.request.surveyed.files if not file.reason or file.path in keep]
        return {file.path: self.ledger.hashes.of(file.location) for file in carried}

    def plan_id(self) -> Any:
        """What `patch` depends on: rows and fingerprint of the neurons, or the edit's two files."""
        if self.request.recipe.harden is not None:
            return [self.ledger.hashes.of(self.plan / name) for name in (DOCUMENT_NAME, TENSORS_NAME)]
        if not self.neurons_file.is_file():
            return None
        document = read_neurons_document(self.neurons_file)
        return digest_of([document["layers"], document.get("fingerprint")])
