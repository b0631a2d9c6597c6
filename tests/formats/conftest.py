"""One tiny model and what is made of it, for all tests of formats."""

import json
from dataclasses import replace

import planted_model
import pytest
import torch
from smallest import CAPTIONS, CORPUS, HARDEN, SEARCH

import surgery
from surgery.localization.calibration import calibrate
from surgery.model.pipeline import load_pipeline


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose by several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny pipeline with memories built by hand, from a folder, live."""
    folder = tmp_path_factory.mktemp("formats") / "model"
    planted_model.planted_pipeline(folder.with_name("tokenizer")).save_pretrained(folder)
    return load_pipeline(folder, device="cpu")


@pytest.fixture(scope="session")
def calibration(model):
    return calibrate(model, CAPTIONS, SEARCH, score_prompts=len(CAPTIONS))


@pytest.fixture(scope="session")
def localized(model, calibration, tmp_path_factory):
    """(the document of neurons.json, the lines of the journal)"""
    folder = tmp_path_factory.mktemp("localized")
    alike = "v w x"  # by nature: whatever word is dropped, the others draw one picture
    found = surgery.localize(
        model,
        [*CORPUS, alike],
        settings=replace(SEARCH, joint=True, joint_seeds=2, joint_steps=1),
        calibration=calibration,
        journal=folder / "journal",
    )
    found.write(folder / "neurons.json")
    lines = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
    return json.loads((folder / "neurons.json").read_text()), lines


@pytest.fixture(scope="session")
def hardened(model, tmp_path_factory):
    """An edit of the tiny pipeline, made by next to no training."""
    layer, row = planted_model.PLANTED["v"][0]
    return surgery.harden(
        model.source, CORPUS[:1], tmp_path_factory.mktemp("hardened") / "edit", neurons={layer: [row]},
        settings=HARDEN, device="cpu", keep_going=True,
    )  # fmt: skip
