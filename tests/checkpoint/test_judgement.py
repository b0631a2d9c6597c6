"""`inspect` and `patch` give one answer, for every layout and refusal; and what is patched still loads."""

from __future__ import annotations

import json

import pytest
from checkpoint_builders import DOWN, MIDDLE
from layouts import LAYOUTS, STEM, UNET, partial_download, ways_to_load
from safetensors.torch import load_file, save_file
from test_refusals import SOURCES

import surgery
from surgery.errors import UsageError

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}


def hidden_copy(model):
    rows = load_file(model / UNET)[f"{MIDDLE}.weight"]
    tensors = load_file(model / UNET)
    save_file(tensors | {"renamed.tensor": rows.half()}, model / UNET)


def index_contradicted(model):
    layouts = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(layouts | {"..": ["diffusers", "X"]}))


def disguised_weights(model):
    (model / "tokenizer" / "vocab.json").write_bytes((model / UNET).read_bytes())


def link_out(model):
    secret = model.parent / "secret.txt"
    secret.write_text("secret")
    (model / "LICENSE").symlink_to(secret)


def second_network(model):
    (model / "controlnet").mkdir()
    save_file(load_file(model / UNET), model / "controlnet" / f"{STEM}.safetensors")
    index = json.loads((model / "model_index.json").read_text())
    controlnet = {"controlnet": ["diffusers", "ControlNetModel"]}
    (model / "model_index.json").write_text(json.dumps(index | controlnet))


def nothing_whole(model):
    partial_download(model)
    for path in (model / "unet").glob("*fp16*"):
        path.unlink()


def fed_an_image(model):
    index = json.loads((model / "model_index.json").read_text())
    changed = index | {"_class_name": "StableDiffusionImageVariationPipeline"}
    (model / "model_index.json").write_text(json.dumps(changed))


REFUSED = {
    "an impossible component": index_contradicted,
    "weights in disguise": disguised_weights,
    "a link that leads out": link_out,
    "a second network": second_network,
    "nothing whole": nothing_whole,
    "fed an image": fed_an_image,
}
CASES = {
    **{f"layout: {name}": change for name, change in LAYOUTS.items()},
    **{f"refusal: {name}": change for name, (change, _) in SOURCES.items()},
    **{f"refusal: {name}": change for name, change in REFUSED.items()},
}


@pytest.mark.parametrize("case", CASES)
def test_inspect_promises_exactly_what_patch_does(case, model, tmp_path):
    CASES[case](model)
    promised = refused = None
    try:
        promised = surgery.inspect_checkpoint(model).refusal
    except UsageError as error:
        promised = str(error)
    try:
        surgery.patch(model, ROWS, tmp_path / "out")
    except UsageError as error:
        refused = str(error)
    assert promised == refused
    assert (refused is not None) == case.startswith("refusal")


def test_what_only_the_numbers_tell_inspect_says_it_does_not_ask(model, tmp_path, surgery_run):
    """A second copy of the rows is found by reading all weights: `patch` does, `inspect` does not."""
    hidden_copy(model)
    status, out, _ = surgery_run("inspect", model)
    assert status == 0 and "unless it finds a second copy of the rows" in out
    with pytest.raises(UsageError, match=r"renamed\.tensor holds a second copy"):
        surgery.patch(model, ROWS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_output_loads_wherever_the_source_did(layout, model, tmp_path):
    from diffusers import UNet2DConditionModel

    LAYOUTS[layout](model)
    before = {way for way in ways_to_load(model) if not way.endswith("pickles")}
    output = surgery.patch(model, ROWS, tmp_path / "out").output
    after = ways_to_load(output)
    assert before <= after
    assert not list(output.rglob("*.bin"))
    for variant in (None, "fp16", "non_ema"):
        if f"UNet2DConditionModel, {variant}, any" in before:
            unet = UNet2DConditionModel.from_pretrained(output / "unet", variant=variant)
            assert not unet.get_submodule(MIDDLE).weight[[3, 7, 8]].any()
    assert surgery.diff(model, output, plan=ROWS).as_planned


@pytest.mark.parametrize("layout", ["an index names a lone pickle", "partial download", "no class name"])
def test_these_layouts_did_load(layout, model):
    """So that the test above is not about sources that nobody could load."""
    LAYOUTS[layout](model)
    assert any(way.startswith("UNet2DConditionModel") for way in ways_to_load(model))


def test_of_a_partial_download_the_rest_is_left_out_with_a_reason(model, tmp_path):
    LAYOUTS["partial download, one shard"](model)
    result = surgery.patch(model, ROWS, tmp_path / "out")
    index = f"unet/{STEM}.safetensors.index.json"
    shard = f"unet/{STEM}-00001-of-00002.safetensors"
    assert {file.path: file.reason for file in result.left_out} == {
        index: f"an incomplete copy: unet/{STEM}-00002-of-00002.safetensors is not there",
        shard: "a shard of a copy that is not whole",
    }
    assert [copy.variant for copy in result.copies] == ["fp16"]


def test_a_component_without_weights_is_said(model, surgery_run, neurons, tmp_path):
    LAYOUTS["the autoencoder is gone"](model)
    said = "vae: declared in model_index.json, but it has no weights that could be carried over"
    assert surgery.inspect_checkpoint(model).warnings == (said,)
    status, _, err = surgery_run("patch", model, neurons, "-o", tmp_path / "out")
    assert status == 0 and said in err


def test_a_component_folder_without_class_name_is_a_u_net_by_its_blocks(model, tmp_path):
    LAYOUTS["no class name"](model)
    assert surgery.patch(model / "unet", ROWS, tmp_path / "out").output.exists()
    settings = json.loads((model / "unet" / "config.json").read_text())
    del settings["up_block_types"]  # a ControlNet
    (model / "unet" / "config.json").write_text(json.dumps(settings))
    assert "class ? is not known" in surgery.inspect_checkpoint(model / "unet").refusal
