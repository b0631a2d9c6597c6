"""Calibrate: thresholds from ordinary prompts, as a file that later runs use again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.applying.run import Run
from surgery.applying.steps.step import Cost, Step
from surgery.progress import StageBars
from surgery.versions import library_versions


class Calibrate(Step):
    """Not asked for where a calibration, or the neurons themselves, are given."""

    name = "calibrate"

    def wanted(self, run: Run) -> bool:
        return not {"calibration", "neurons"} & run.request.files.keys()

    def inputs(self, run: Run) -> dict[str, Any]:
        recipe = run.request.recipe
        return {
            "model": run.model_id(),
            "ordinary prompts": run.request.ordinary,
            "settings": recipe.localize.settings.for_calibration(),
            "score_prompts": recipe.calibrate.score_prompts,
            "number type": run.number_type,
            "versions": library_versions(),
        }

    def outputs(self, run: Run) -> list[Path]:
        return [run.calibration_file]

    def do(self, run: Run) -> dict[str, Any]:
        from surgery.localization.calibration import calibrate
        from surgery.localization.calibration_file import write_calibration
        from surgery.ordinary import ordinary_prompts

        request, recipe = run.request, run.request.recipe
        captions, source = ordinary_prompts(request.located.path, request.files.get("ordinary"))
        bars = StageBars(not request.quiet)
        try:
            # without a cutoff: that is `localize`'s, so that another one costs no calibration
            found = calibrate(
                run.live,
                captions,
                recipe.localize.settings,
                recipe.calibrate.score_prompts,
                source,
                progress=bars,
            )
        finally:
            bars.close()
        write_calibration(found, run.calibration_file)
        return {"prompts": found.prompts, "source": source}

    def cost(self, run: Run) -> Cost:
        settings = run.request.recipe.localize.settings
        prompts = min(run.request.recipe.calibrate.score_prompts, len(set(run.request.ordinary)))
        latents = settings.seeds + settings.confirm_seeds
        # one more for the empty prompt, that some detectors compare with
        forwards = (prompts + 1) * latents * (1 if settings.guidance is None else 2)
        return Cost(forwards, "at most")

    def says(self, facts: Mapping[str, Any]) -> str:
        return f"thresholds of {facts['prompts']} ordinary prompts ({facts['source']})"
