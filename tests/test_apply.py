"""`surgery apply`: the recipe's own revision is proved, and a memory that is left is never passed over."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "checkpoint"))
from checkpoint_builders import MIDDLE, small_pipeline

from surgery import apply, cli
from surgery.localization.records import LOCALIZED, UNRESOLVED, Localization, PromptRecord
from surgery.neurons import NeuronSet

FOUND = NeuronSet({MIDDLE: [3]})
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hand-made Hub cache: `main` is the newer commit, whose text encoder differs from the older one's."""
    model = tmp_path / "cache" / "models--me--model"
    small_pipeline(tmp_path / "parts").save_pretrained(model / "snapshots" / OLD)
    shutil.copytree(model / "snapshots" / OLD, model / "snapshots" / NEW)
    weights = model / "snapshots" / NEW / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(NEW)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return "me/model"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, cached):
    """Run `surgery apply` with a localization that found one neuron; returns (status, JSON, stderr)."""

    def run(*records, revision=OLD, source=cached, model=()):
        result = Localization(FOUND, list(records), {})
        monkeypatch.setattr(apply, "localize", lambda *arguments, **named: result)
        monkeypatch.setattr(apply, "load_pipeline", lambda *arguments: None)
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            f'format = "surgery.recipe/1"\n[model]\nsource = "{source}"\nrevision = "{revision}"\n'
        )
        (tmp_path / "prompts.txt").write_text("a\nb\n")
        words = [
            "apply",
            recipe,
            "--prompts",
            tmp_path / "prompts.txt",
            "-o",
            tmp_path / "out",
            "--json",
            *model,
        ]
        capsys.readouterr()  # what the libraries said while the cache was made
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, json.loads(captured.out or "null"), captured.err

    return run


def record(outcome=LOCALIZED, broken=True):
    return PromptRecord("a", outcome, 0.9, 0.1, FOUND, FOUND, {"confirmed": {"broken": broken}})


@pytest.mark.parametrize("revision", [OLD, NEW, "main"])
def test_the_difference_is_proved_against_the_recipe_s_revision(run, revision):
    """Not against `main`, which may hold other weights."""
    status, summary, error = run(record(), revision=revision)
    assert (status, error) == (0, "")
    assert summary["neurons"] == 1
    assert json.loads((Path(summary["output"]) / "surgery-manifest.json").read_text())["source"]["name"]


def test_a_prompt_that_fresh_seeds_do_not_confirm_is_a_memory_left(run):
    status, summary, error = run(record(), record(broken=False))
    assert status == 3
    assert (summary["unresolved"], summary["unconfirmed"]) == (0, 1)
    assert "do not publish" in error


def test_an_unresolved_prompt_is_a_memory_left(run):
    status, summary, error = run(record(), record(UNRESOLVED, broken=None))
    assert (status, summary["unresolved"], summary["unconfirmed"]) == (3, 1, 0)
    assert "do not publish" in error


def test_a_revision_of_a_folder_is_refused_before_any_work(run, tmp_path):
    folder = tmp_path / "cache" / "models--me--model" / "snapshots" / OLD
    copy = shutil.copytree(folder, tmp_path / "copy")
    status, _, err = run(record(), source=str(copy))
    assert status == 2 and "only a Hub id has revisions" in err and not (tmp_path / "out").exists()


def test_a_folder_in_the_recipes_models_place_has_no_revision(run, tmp_path):
    folder = tmp_path / "cache" / "models--me--model" / "snapshots" / NEW
    copy = shutil.copytree(folder, tmp_path / "copy")
    status, document, _ = run(record(), model=("--model", copy))
    assert (status, document["neurons"]) == (0, 1)
