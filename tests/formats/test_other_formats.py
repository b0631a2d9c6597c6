"""Recipes, the testbed's own documents, and what holds of every format."""

import json
import tomllib
from pathlib import Path

import torch
from described import held_against

import surgery
from surgery import formats
from surgery.formats import FORMATS
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth


def test_recipes_are_described():
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")):
        document = tomllib.loads(path.read_text())
        if document.get("audit") is False:
            del document["audit"]
        held_against(formats.RECIPE, document)


def test_the_state_of_an_application_is_described(tmp_path):
    """Of neurons that are given: no model is run."""
    memory = read_ground_truth()[0]
    neurons = {"format": formats.NEURONS.tag, "layers": memory.neurons.as_json()}
    (tmp_path / "neurons.json").write_text(json.dumps(neurons))
    (tmp_path / "recipe.toml").write_text(
        f'format = "{formats.RECIPE.tag}"\naudit = false\n[model]\nsource = "{PLANTED_FOLDER.resolve()}"\n'
        '[localize]\nneurons = "neurons.json"\n'
    )
    surgery.apply_recipe(tmp_path / "recipe.toml", tmp_path / "out")
    state = json.loads((tmp_path / "out.evidence" / "state.json").read_text())
    held_against(formats.APPLY_STATE, state).assert_complete()


def test_the_demo_is_described(tmp_path, monkeypatch):
    """A demo in which nothing is searched and nothing drawn: its document is real, its numbers are not."""
    from surgery.localization.records import LOCALIZED, Localization, PromptRecord
    from surgery.testbed import demo

    everything = surgery.NeuronSet().union(*(memory.neurons for memory in read_ground_truth()))
    blank = torch.zeros(21, 1, 3, 64, 64, dtype=torch.uint8)
    records = [PromptRecord(memory.caption, LOCALIZED, 0.9) for memory in read_ground_truth()]
    monkeypatch.setattr(demo, "localize", lambda *_, **__: Localization(everything, records, {}))
    monkeypatch.setattr(demo, "generate", lambda *_, **__: blank)
    monkeypatch.setattr(demo, "ordinary_change", lambda *_, **__: type("Change", (), {"total": 0.0}))
    demo.run_demo(tmp_path / "demo", seeds=1, device="cpu", quiet=True)
    document = json.loads((tmp_path / "demo" / "demo.json").read_text())
    held_against(formats.DEMO, document).assert_complete()


def test_the_testbed_is_described():
    held_against(formats.PLANTED, json.loads((PLANTED_FOLDER / "planted.json").read_text())).assert_complete()


def test_types_are_those_that_are_defined():
    for one in FORMATS:
        for described in one.fields:
            kind = described.type.removesuffix(" or null").removeprefix("list").removeprefix(" of ")
            assert kind in (*formats.TYPES, ""), described


def test_tags_are_those_that_the_code_writes():
    from surgery import neurons
    from surgery.applying import ledger, recipe
    from surgery.auditing import store
    from surgery.auditing.report import document
    from surgery.checkpoint.edit import edit_file, manifest
    from surgery.hardening import harden, state
    from surgery.localization import calibration_file, journal
    from surgery.localization.discovery import ranking

    modules = (
        neurons, recipe, ledger, store, document, manifest, calibration_file, edit_file, harden, state,
    )  # fmt: skip
    journals = {journal.OF_LOCALIZE.tag, ranking.OF_SCAN.tag}
    written = {module.FORMAT for module in modules} | journals | {"surgery.demo/1", "surgery.planted/1"}
    assert {one.tag for one in FORMATS} == written | {""}
    for one in FORMATS:
        assert one.public.startswith(("Yes", "No")), one.name
