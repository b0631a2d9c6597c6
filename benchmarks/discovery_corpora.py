"""What the runs of `discovery.py` share: a variant, its calibration, captions that no calibration saw."""

from __future__ import annotations

import tempfile
from pathlib import Path

from surgery.localization.calibration import Calibration, calibrate
from surgery.localization.calibration_file import read_calibration, write_calibration
from surgery.localization.settings import SCORE_PROMPTS, LocalizeSettings
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.testbed.captions import ordinary_descriptions, ordinary_titles
from surgery.testbed.load import PLANTED_FOLDER, assemble_variant, read_ordinary_prompts

NATURAL = Path(__file__).resolve().parent.parent / "tests" / "data" / "natural.safetensors"
SEED = 991  # of everything that is drawn here


def model_of(variant: str) -> LiveModel:
    """A variant of the testbed, live."""
    if variant == "planted":
        return load_pipeline(PLANTED_FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        return load_pipeline(assemble_variant(NATURAL, Path(folder) / variant))


def calibrated(model: LiveModel, settings: LocalizeSettings, file: str | None) -> Calibration:
    """The calibration on the testbed's own ordinary captions; kept in a file, where one is named."""
    if file is not None and Path(file).is_file():
        return read_calibration(file)
    calibration = calibrate(model, read_ordinary_prompts(), settings, source="ordinary-prompts.txt")
    if file is not None:
        write_calibration(calibration, file)
    return calibration


def held_out_titles(count: int) -> list[str]:
    """Ordinary titles that the testbed's list does not hold."""
    listed = set(read_ordinary_prompts())
    return [title for title in ordinary_titles(count + len(listed), SEED) if title not in listed][:count]


def held_out_descriptions(count: int) -> list[str]:
    """Descriptions that the calibration did not score, evenly spread."""
    listed = read_ordinary_prompts()
    scored = {listed[place * len(listed) // SCORE_PROMPTS] for place in range(SCORE_PROMPTS)}
    left = [one for one in ordinary_descriptions() if one not in scored]
    return [left[place * len(left) // count] for place in range(min(count, len(left)))]
