"""What is asked: a recipe with what the command line puts in its place, every file found before any work.

Nothing here is written, and no model is loaded. Where a Hub id is not in the cache, `source` is None until it
was downloaded.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from surgery.applying.recipe import Recipe, read_recipe
from surgery.auditing.settings import AuditSettings
from surgery.checkpoint.names.files import MANIFEST_NAME
from surgery.checkpoint.survey.family import denoiser_settings
from surgery.checkpoint.survey.source import FILE, Source, locate
from surgery.checkpoint.survey.survey import Checkpoint, survey
from surgery.corpus import PromptCorpus, read_prompts
from surgery.denoisers import localizable
from surgery.errors import UsageError
from surgery.files import absolute, expanded
from surgery.neurons import read_neurons_document
from surgery.ordinary import ordinary_prompts
from surgery.publish.hub import check_repo_id, is_offline

WORK_SUFFIX = ".evidence"
IMMACULATE = "immaculate"  # a value of `sscd` that is no file
AUDIT_FILES = ("control_images", "twin", "base", "clip", "fid_reference", "fid_features")


@dataclass(frozen=True)
class Request:
    """A recipe that can start.

    Attributes:
        model: path or Hub id, as the live pipeline takes it.
        revision: of a Hub id.
        source: the checkpoint on this machine; None where it must be downloaded first.
        corpus: the prompts; None where no step needs any.
        files: name of a file of the recipe (`neurons`, `calibration`, `images`, `ordinary`, `data`, `card`,
            `twin`, ...) -> where it is.
        output: the folder that is made.
        work: the working folder.
        device, dtype: as for `load_pipeline`.
    """

    recipe: Recipe
    model: str
    revision: str | None
    source: Source | None
    corpus: PromptCorpus | None
    files: Mapping[str, Path]
    output: Path
    work: Path
    device: str | None = None
    dtype: str | None = None
    quiet: bool = True

    @property
    def prompts(self) -> list[str]:
        """The captions."""
        return [] if self.corpus is None else self.corpus.prompts

    @cached_property
    def located(self) -> Source:
        """The checkpoint on this machine.

        Raises:
            UsageError: it is not there.
        """
        return self.source or locate(self.model, self.revision)

    @cached_property
    def surveyed(self) -> Checkpoint:
        """What the checkpoint holds: headers only."""
        return survey(self.located)

    @cached_property
    def ordinary(self) -> list[str]:
        """The ordinary captions."""
        return ordinary_prompts(self.located.path, self.files.get("ordinary"))[0]

    @property
    def checkpoint(self) -> Path:
        """What `patch` writes: the output folder, or the one file in it."""
        if self.located.kind != FILE:
            return self.output
        return self.output / f"{self.located.path.stem}.safetensors"

    @property
    def manifest(self) -> Path:
        """The manifest beside or in it."""
        if self.located.kind != FILE:
            return self.output / MANIFEST_NAME
        return self.output / f"{self.checkpoint.name}.{MANIFEST_NAME}"

    def audit_settings(self) -> AuditSettings:
        """The audit's settings, with the file that they may name made absolute."""
        assert self.recipe.audit is not None
        settings = self.recipe.audit.settings
        sscd = self.files.get("sscd")
        return settings if sscd is None else dataclasses.replace(settings, sscd=str(sscd))


def make_request(
    recipe: Recipe | str | Path,
    output: str | Path,
    *,
    work: str | Path | None = None,
    model: str | Path | None = None,
    prompts: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quiet: bool = True,
) -> Request:
    """Check everything that can be checked before the work; arguments as for `apply_recipe`.

    Raises:
        UsageError: the recipe, a file that it names, the output or the working folder is wrong.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    if recipe.publish.repo_id is not None:
        check_repo_id(recipe.publish.repo_id)
    name, revision = _model(recipe, model)
    source = _located(name, revision)
    files = _files(recipe)
    corpus = _corpus(recipe, prompts, files)
    if "neurons" in files:
        read_neurons_document(files["neurons"])
    output, work = _places(output, work)
    request = Request(recipe, name, revision, source, corpus, files, output, work, device, dtype, quiet)
    if source is not None:
        check_denoiser(request)
    return request


def check_denoiser(request: Request) -> None:
    """Refuse a recipe that asks of this model what nothing here can do.

    Raises:
        UsageError: its denoiser is not one that can be localized, hardened or audited.
    """
    recipe = request.recipe
    asked = [
        name
        for name, wanted in (
            ("localize", "neurons" not in request.files),
            ("harden", recipe.harden is not None),
            ("audit", recipe.audit is not None),
        )
        if wanted
    ]
    kind = denoiser_settings(request.surveyed).get("_class_name")
    if asked and kind is not None and kind not in localizable():
        raise UsageError(
            request.model,
            f"has a {kind}, and only {' or '.join(localizable())} can be localized, hardened or audited",
            "give neurons with [localize] neurons = FILE, leave [harden] out and say audit = false",
        )


def _model(recipe: Recipe, given: str | Path | None) -> tuple[str, str | None]:
    """Path or Hub id, and its revision: the recipe's is not of a folder that takes its model's place."""
    if given is not None:
        is_path = expanded(given).exists()
        return str(expanded(given) if is_path else given), None if is_path else recipe.model.revision
    written = recipe.model.source
    if written is None:
        raise UsageError("model", "neither the recipe nor you name one", "give --model MODEL")
    local = recipe.path(written)
    return str(local) if local.exists() else written.replace("\\", "/"), recipe.model.revision


def _located(model: str, revision: str | None) -> Source | None:
    try:
        return locate(model, revision)
    except UsageError:
        from surgery.model.pipeline import HUB_ID

        # A path that is missing stays an error; a Hub id may be downloaded, where that is allowed.
        may_be_fetched = HUB_ID.fullmatch(model) and not os.path.lexists(model) and not is_offline()
        if not may_be_fetched:
            raise
        return None


def _files(recipe: Recipe) -> dict[str, Path]:
    """Every file and folder that the recipe names, but model and prompts."""
    named: dict[str, str | None] = {
        "neurons": recipe.localize.neurons,
        "calibration": recipe.calibrate.file,
        "images": recipe.corpus.images,
        "ordinary": recipe.corpus.ordinary,
        "card": recipe.card.file,
    }
    if recipe.harden is not None:
        named["data"] = recipe.harden.data
    if recipe.audit is not None:
        named |= {name: getattr(recipe.audit, name) for name in AUDIT_FILES}
        sscd = recipe.audit.settings.sscd
        named["sscd"] = None if sscd == IMMACULATE else sscd
    found = {}
    for name, written in named.items():
        if written is None:
            continue
        path = recipe.path(written)
        if not path.exists():
            raise UsageError(path, f"no such file or folder ({name} of the recipe)", "correct the recipe")
        found[name] = path
    return found


def _corpus(recipe: Recipe, given: str | Path | None, files: Mapping[str, Path]) -> PromptCorpus | None:
    if given is None and recipe.corpus.prompts is None:
        if "neurons" in files and recipe.harden is None and recipe.audit is None:
            return None
        raise UsageError("prompts", "neither the recipe nor you name any", "give --prompts FILE")
    path = expanded(given) if given is not None else recipe.path(recipe.corpus.prompts or "")
    column = None if given is not None and path.suffix.lower() == ".txt" else recipe.corpus.column
    return read_prompts(path, column, recipe.corpus.limit)


def _places(output: str | Path, work: str | Path | None) -> tuple[Path, Path]:
    """The output and the working folder, made absolute.

    Raises:
        UsageError: one lies in the other, or has no folder to lie in.
    """
    # the folder may be a link; the output itself must not be followed, or it could not be replaced
    found = absolute(expanded(output))
    found = found.parent.resolve() / found.name
    beside = absolute(expanded(work)) if work is not None else found.with_name(f"{found.name}{WORK_SUFFIX}")
    beside = beside.resolve()
    if found == beside or found in beside.parents or beside in found.parents:
        raise UsageError(beside, "the working folder and the output lie in each other", "keep them apart")
    for path in (found, beside):
        if not path.parent.is_dir():
            raise UsageError(path.parent, "no such folder", "make it first")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(path.parent, "cannot be written to", "choose another folder")
    return found, beside
