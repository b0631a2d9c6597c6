"""The planted-answer model, as a folder and in memory."""

import planted_model
import pytest

from surgery.model.pipeline import load_pipeline


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "model"
    planted_model.planted_pipeline(folder.with_name("tokenizer")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def planted(planted_folder):
    return load_pipeline(planted_folder, device="cpu")
