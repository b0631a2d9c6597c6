"""Harden: train what zeroed rows only hide; the result is an edit, which `patch` then applies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.applying.dealing import shared
from surgery.applying.run import EDIT, Run
from surgery.applying.steps.step import Cost, Step
from surgery.checkpoint.edit.edit_file import DOCUMENT_NAME, TENSORS_NAME
from surgery.errors import GateError
from surgery.versions import audit_versions

TRAINS_IN = ("float32", "mixed-bfloat16")


class Harden(Step):
    """Asked for by the section `[harden]`; trained against are the prompts that are memorized."""

    name = "harden"

    def wanted(self, run: Run) -> bool:
        return run.request.recipe.harden is not None

    def inputs(self, run: Run) -> dict[str, Any]:
        section = run.request.recipe.harden
        assert section is not None
        settings = section.settings.as_json()
        settings.pop("batch_size")
        found = run.neurons_file.is_file()
        return {
            "model": run.model_id(),
            "neurons": run.neurons().as_json() if found else None,
            "prompts": run.memorized() if found else None,
            "images": run.folder_id("images"),
            "data": run.folder_id("data"),
            "ordinary prompts": run.request.ordinary,
            "settings": settings,
            "measure": section.similarity,
            "keep_going": section.keep_going,
            "number type": self._dtype(run),
            "versions": audit_versions(),
        }

    def outputs(self, run: Run) -> list[Path]:
        return [run.work / EDIT / name for name in (DOCUMENT_NAME, TENSORS_NAME)]

    def do(self, run: Run) -> dict[str, Any]:
        from surgery.hardening.harden import RECORD_NAME, harden

        request, section = run.request, run.request.recipe.harden
        assert section is not None
        record = run.work / EDIT / RECORD_NAME
        if record.is_file():  # a run was killed between writing the edit and noting it
            return _facts(json.loads(record.read_text(encoding="utf-8")))
        prompts = run.memorized()
        result = harden(
            self._model(run),
            prompts,
            run.work / EDIT,
            neurons=run.neurons_file,
            **run.pictures(prompts),
            data=request.files.get("data"),
            ordinary_file=request.files.get("ordinary"),
            settings=section.settings,
            similarity=section.similarity,
            keep_going=section.keep_going,
            quiet=request.quiet,
            **shared(self.name, run.processes),
        )
        rung = result.rungs[-1]
        if result.edit is None:
            raise GateError(
                "harden",
                f"its gate does not hold on rung `{rung.name}`: nothing is patched",
                "raise rounds, or set keep_going = true and let the audit judge",
            )
        return _facts(result.document)

    def clear(self, run: Run) -> None:
        for name in (EDIT, f".{EDIT}.hardening", f".{EDIT}.part"):
            shutil.rmtree(run.work / name, ignore_errors=True)

    def cost(self, run: Run) -> Cost:
        from surgery.hardening.estimate import sample_forwards

        section = run.request.recipe.harden
        assert section is not None
        prompts = len(run.memorized() if run.neurons_file.is_file() else run.request.prompts)
        total = sample_forwards(section.settings, prompts).total
        return Cost(total, "at most", note=f"rungs {', '.join(section.settings.rungs)}")

    def says(self, facts: Mapping[str, Any]) -> str:
        holds = "holds" if facts["holds"] else "does NOT hold"
        return f"the gate {holds} on rung `{facts['rung']}` after {facts['rounds']} rounds"

    def _dtype(self, run: Run) -> str:
        return run.number_type if run.number_type in TRAINS_IN else TRAINS_IN[0]

    def _model(self, run: Run) -> Any:
        """The source in a number type that trains: the one at hand, or loaded anew."""
        if self._dtype(run) == run.number_type:
            return run.live
        from surgery.model.pipeline import load_pipeline

        request = run.request
        run.release()
        return load_pipeline(
            str(request.located.path), request.device, self._dtype(run), variant=request.recipe.model.variant
        )


def _facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """What `hardening.json` says, in short."""
    return {
        "holds": document["holds"],
        "rung": document["rung"],
        "rounds": len(document["rungs"][-1]["rounds"]),
        "forwards": document["work"]["sample_forwards"],
    }
