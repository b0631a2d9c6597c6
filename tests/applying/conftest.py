"""Recipes of the testbed as files, and the command line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from small_recipes import MEMORIES, write_small_recipe

from surgery.cli import main


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small only lose by several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_recipe(tmp_path):
    """`write_small_recipe` into the test's own folder."""
    return partial(write_small_recipe, tmp_path)


@pytest.fixture
def given_neurons(tmp_path):
    """Write a `neurons.json` by hand, with the outcome of each prompt: no model is needed then."""

    def write(*outcomes: str) -> Path:
        records = [
            {
                "prompt": f"caption {place}",
                "outcome": "unresolved" if outcome == "unresolved" else "localized",
                "score_before": 0.9,
                "confirmed": {"broken": outcome != "unconfirmed"},
            }
            for place, outcome in enumerate(outcomes)
        ]
        document = {
            "format": "surgery.neurons/1",
            "layers": MEMORIES[0].neurons.as_json(),
            "prompts": records,
        }
        path = tmp_path / "neurons.json"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def surgery_run(capsys):
    """Run the command line; returns (status, stdout, stderr)."""

    def run(*words) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
