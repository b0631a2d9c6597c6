"""Carry out a recipe: localize, patch, diff against the plan. What an upload script calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.diff import diff
from surgery.checkpoint.patch import patch
from surgery.checkpoint.survey.source import locate
from surgery.corpus import read_prompts
from surgery.errors import GateError, UsageError
from surgery.files import check_writable, expanded
from surgery.localization.localize import localize
from surgery.localization.records import UNRESOLVED, Localization
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import load_pipeline
from surgery.recipe import Recipe, build, read_recipe


@dataclass(frozen=True)
class Applied:
    """What `apply_recipe` did.

    Attributes:
        localization: the neurons and one record per prompt.
        output: the patched checkpoint; None where no neuron was found, so that nothing was written.
    """

    localization: Localization
    output: Path | None

    @property
    def unresolved(self) -> int:
        """Prompts whose memory no set of neurons broke: it is still in the checkpoint."""
        return len(self.localization.with_outcome(UNRESOLVED))

    @property
    def unconfirmed(self) -> int:
        """Prompts whose memory is broken on the seeds of the search, but not on fresh ones."""
        return len(self.localization.left()) - self.unresolved


def apply_recipe(
    recipe: Recipe | str | Path,
    output: str | Path,
    neurons_file: str | Path,
    *,
    model: str | None = None,
    prompts: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quiet: bool = True,
) -> Applied:
    """Localize the recipe's corpus, patch its model into `output`, and prove the difference.

    Args:
        recipe: a read recipe, or its file.
        output: the new checkpoint.
        neurons_file: where `neurons.json` goes. It quotes the prompts: keep it out of what is published.
        model, prompts: take the place of the recipe's.

    Raises:
        UsageError: the recipe or one of its parts is wrong; nothing was written.
        GateError: the patched checkpoint differs from its source in more than the plan.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    source = model or _source(recipe)
    if prompts is None and recipe.corpus.prompts is None:
        raise UsageError("prompts", "neither the recipe nor you name any", "give --prompts FILE")
    # The recipe's revision is of the recipe's model, not of a folder that takes its place.
    revision = None if model and expanded(model).exists() else recipe.model.revision
    if expanded(source).exists():
        locate(source, revision)  # refuses a revision of a path now, not after hours
    settings = build(LocalizeSettings, dict(recipe.localize), "[localize]")
    corpus = read_prompts(prompts or recipe.path(recipe.corpus.prompts or ""), recipe.corpus.column)
    output, neurons_file = expanded(output), check_writable(neurons_file)
    if output.exists():
        raise UsageError(output, "exists already", "choose a new output")
    live = load_pipeline(source, device, dtype, revision, recipe.model.variant)
    ordinary = recipe.path(recipe.corpus.ordinary) if recipe.corpus.ordinary else None
    found = localize(
        live, corpus, settings=settings, ordinary=ordinary, show_progress=not quiet, **_aggregation(recipe)
    )
    found.write(neurons_file)
    if not found.neurons.count:
        return Applied(found, None)
    patch(source, neurons_file, output, revision=revision, quiet=quiet)
    proof = diff(source, output, plan=found.neurons, revision=revision, quiet=quiet)
    if not proof.as_planned:
        raise GateError(output, "differs from its source in more than the plan", "do not publish it")
    return Applied(found, output)


def _source(recipe: Recipe) -> str:
    written = recipe.model.source
    if written is None:
        raise UsageError("model", "neither the recipe nor you name one", "give --model MODEL")
    local = recipe.path(written)
    return str(local) if local.exists() else written


def _aggregation(recipe: Recipe) -> dict[str, Any]:
    return vars(recipe.aggregate)
