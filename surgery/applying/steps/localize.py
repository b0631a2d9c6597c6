"""Localize: the neurons of the corpus; or those that are given, for a model that cannot be localized here.

The journal is kept, under a name made of what its records depend on: with another corpus or another
aggregation, prompts that were searched once are not searched again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.applying.dealing import shared
from surgery.applying.hashes import digest_of
from surgery.applying.run import Run
from surgery.applying.steps.step import Cost, Step
from surgery.localization.journal import journals
from surgery.localization.records import PromptRecord
from surgery.neurons import read_neurons_document
from surgery.versions import library_versions

_DIGITS = 12


class Localize(Step):
    """The search."""

    name = "localize"

    def wanted(self, run: Run) -> bool:
        return "neurons" not in run.request.files

    def inputs(self, run: Run) -> dict[str, Any]:
        return {
            **self._of_records(run),
            "prompts": run.request.prompts,
            "aggregation": vars(run.request.recipe.aggregate),
        }

    def _of_records(self, run: Run) -> dict[str, Any]:
        settings = run.request.recipe.localize.settings.as_json()
        settings.pop("batch_size")  # no result depends on it
        return {
            "model": run.model_id(),
            "calibration": run.ledger.hashes.of(run.calibration_file),
            "images": run.folder_id("images"),
            "settings": settings,
            "number type": run.number_type,
            "versions": library_versions(),
        }

    def journal(self, run: Run) -> Path:
        """The journal of these settings."""
        return run.work / f"localize-{digest_of(self._of_records(run))[:_DIGITS]}.journal"

    def outputs(self, run: Run) -> list[Path]:
        return [run.neurons_file, *(journals(self.journal(run)) if run.work.is_dir() else ())]

    def do(self, run: Run) -> dict[str, Any]:
        from surgery.localization.localize import localize

        request, recipe = run.request, run.request.recipe
        found = localize(
            run.live,
            request.corpus or request.prompts,
            settings=recipe.localize.settings,
            calibration=run.calibration_file,
            journal=self.journal(run),
            **run.pictures(request.prompts),
            show_progress=not request.quiet,
            **vars(recipe.aggregate),
            **shared(self.name, run.processes),
        )
        if run.processes.is_main:
            found.write(run.neurons_file)
        skipped = 0 if request.corpus is None else request.corpus.broken_count
        return {**localization_facts(found.as_json()), "rows_skipped": skipped}

    def cost(self, run: Run) -> Cost:
        settings = run.request.recipe.localize.settings
        forwards = len(run.request.prompts) * settings.seeds * (1 if settings.guidance is None else 2)
        return Cost(forwards, "at least", note="the gate alone; every memorized prompt is then searched")

    def says(self, facts: Mapping[str, Any]) -> str:
        skipped = facts["rows_skipped"]
        unread = f"; {skipped} rows of the corpus could not be read" if skipped else ""
        return localization_words(facts) + unread


class GivenNeurons(Step):
    """The neurons of a file: nothing is searched, and what the file says of its prompts counts."""

    name = "neurons"

    def wanted(self, run: Run) -> bool:
        return "neurons" in run.request.files

    def inputs(self, run: Run) -> dict[str, Any]:
        return {"file": run.ledger.hashes.of(run.neurons_file)}

    def do(self, run: Run) -> dict[str, Any]:
        return localization_facts(read_neurons_document(run.neurons_file))

    def cost(self, run: Run) -> Cost:
        return Cost(note=f"given: {run.neurons_file.name}")

    def says(self, facts: Mapping[str, Any]) -> str:
        return f"given: {localization_words(facts)}"


def localization_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a `neurons.json` says, in numbers: of one that was written by hand, of its neurons alone."""
    records = _records(document.get("prompts"))
    unresolved = sum(record.outcome == "unresolved" for record in records)
    return {
        "neurons": sum(len(rows) for rows in document["layers"].values()),
        "layers": len(document["layers"]),
        "prompts": len(records),
        "localized": sum(record.outcome == "localized" for record in records),
        "unresolved": unresolved,
        "unconfirmed": sum(record.is_left for record in records) - unresolved,
    }


def localization_words(facts: Mapping[str, Any]) -> str:
    """These numbers for people."""
    found = f"{facts['neurons']} neurons in {facts['layers']} layers"
    if not facts["prompts"]:
        return found
    left = "".join(f", {facts[word]} {word}" for word in ("unresolved", "unconfirmed") if facts[word])
    return f"{found} for {facts['localized']} of {facts['prompts']} prompts{left}"


def _records(listed: Any) -> list[PromptRecord]:
    """The records of a `neurons.json`; of one that was written by hand and has others, none."""
    wanted = {"prompt", "outcome", "score_before"}
    entries = listed if isinstance(listed, list) else []
    if not all(isinstance(one, dict) and wanted <= one.keys() for one in entries):
        return []
    return [PromptRecord.from_json(one) for one in entries]
