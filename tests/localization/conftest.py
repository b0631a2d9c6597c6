"""The planted-answer model, as a folder and in memory, and its calibration: built once for all tests here."""

import planted_model
import pytest

from surgery.localization import confirmation
from surgery.localization.calibration import calibrate
from surgery.localization.calibration_file import write_calibration
from surgery.model.pipeline import load_pipeline


@pytest.fixture(scope="session", autouse=True)
def quick_pictures():
    """The confirmation's pictures in one step: this model's memories are no pictures, only the path is run.

    `test_criteria.py`, where the pictures are what counts, takes this back.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confirmation, "PICTURE_STEPS", 1)
        yield


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "model"
    planted_model.planted_pipeline(folder.with_name("tokenizer")).save_pretrained(folder)
    text = "\n".join(planted_model.ordinary_captions(80))
    (folder / "ordinary-prompts.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def planted(planted_folder):
    return load_pipeline(planted_folder, device="cpu")


@pytest.fixture(scope="session")
def calibration(planted):
    return calibrate(planted, planted_model.ordinary_captions(80), score_prompts=16)


@pytest.fixture(scope="session")
def calibration_path(calibration, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "planted.safetensors"
    write_calibration(calibration, path)
    return path
