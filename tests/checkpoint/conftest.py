"""Session-scoped source checkpoints. They are read only: a test that changes one copies it first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE, small_pipeline, write_neurons

from surgery.cli import main


@pytest.fixture(scope="session")
def sd1_pipeline(tmp_path_factory):
    return small_pipeline(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory, sd1_pipeline) -> Path:
    """A plain Stable Diffusion 1 folder."""
    folder = tmp_path_factory.mktemp("sd1") / "model"
    sd1_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def model(sd1_folder, tmp_path) -> Path:
    """A copy of the plain folder, to be changed."""
    return Path(shutil.copytree(sd1_folder, tmp_path / "source"))


@pytest.fixture
def neurons(tmp_path) -> Path:
    """Five rows of two layers."""
    return write_neurons(tmp_path / "neurons.json", {DOWN: [0, 31], MIDDLE: [3, 7, 8]})


@pytest.fixture
def surgery_run(capsys):
    """Run the command line; returns (status, stdout, stderr)."""

    def run(*words) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
