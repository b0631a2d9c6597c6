"""Card: the audit recorded in the manifest, and the model card written from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.applying.run import Run
from surgery.applying.steps.patch import checkpoint_id
from surgery.applying.steps.step import Cost, Step
from surgery.checkpoint.survey.source import FILE
from surgery.publish.card import write_card
from surgery.publish.method import localization_method
from surgery.publish.stage import record_audit
from surgery.publish.staged import CARD, SIGNATURE
from surgery.versions import library_versions


class Card(Step):
    """Stages the output: with its card and the hash of every file, it is what is published."""

    name = "card"

    def inputs(self, run: Run) -> dict[str, Any]:
        recipe, hashes = run.request.recipe, run.ledger.hashes
        return {
            "output": checkpoint_id(run),
            "search": localization_method(run.neurons_file),
            "audit": hashes.of(run.audit_file) if recipe.audit is not None else None,
            "base_model": recipe.card.base_model,
            "fields": dict(recipe.card_fields),
            "kept card": None if (kept := _kept(run)) is None else hashes.of(kept),
            "versions": library_versions(("surgery",)),
        }

    def outputs(self, run: Run) -> list[Path]:
        return [run.request.output / CARD, run.request.manifest]

    def do(self, run: Run) -> dict[str, Any]:
        request, recipe = run.request, run.request.recipe
        kept = _kept(run)
        if kept is None:  # else the card of an earlier recipe would be kept as the source's
            (request.output / CARD).unlink(missing_ok=True)
        # it is of the bytes that were there
        (request.output / SIGNATURE).unlink(missing_ok=True)
        manifest = record_audit(
            request.output,
            run.audit_file if recipe.audit is not None else None,
            neurons=run.neurons_file,
        )
        write_card(request.output, card=kept, base_model=recipe.card.base_model, fields=recipe.card_fields)
        published = manifest["published"]
        return {"audited": published["audit"] is not None, "open": published["gate"]["passed"]}

    def cost(self, run: Run) -> Cost:
        return Cost(note="manifest and model card")

    def says(self, facts: Mapping[str, Any]) -> str:
        if not facts["audited"]:
            return "the card says: NOT audited"
        return f"the gate for publishing is {'open' if facts['open'] else 'shut'}"


def _kept(run: Run) -> Path | None:
    """The card that is kept: the recipe's, or the source's."""
    request = run.request
    if "card" in request.files:
        return request.files["card"]
    if request.located.kind == FILE:
        return None
    path = request.located.path / CARD
    return path if path.is_file() else None
