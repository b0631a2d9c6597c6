"""What the table of denoisers says of text that goes round the value layers is measured, not believed."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

import surgery
from surgery import denoisers
from surgery.errors import UsageError

ROOT = Path(__file__).parent.parent
NOTHING_LEFT = 1e-6  # relative; float32 of a model whose output depends on no text is equal to the bit
SOMETHING_LEFT = 1e-4


def load(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


small_denoisers = load("small_denoisers")
SMALL = load("small_families").SMALL


def refusal_of(small, settings):
    return denoisers.class_refusal(small.kind) or denoisers.settings_refusal(settings)


ACCEPTED = [label for label, small in SMALL.items() if not refusal_of(small, small.settings)]


@pytest.mark.parametrize("label", ACCEPTED)
def test_text_is_left_exactly_where_the_table_says(label):
    small = SMALL[label]
    model = small.build()
    assert small.prompt_effect(model) > 1e-3, "the whole model must read the prompt"
    assert small_denoisers.zero_value_layers(model)
    left = small.prompt_effect(model)
    if denoisers.open_text_paths(small.kind, model.config):
        assert left > SOMETHING_LEFT
    else:
        assert left < NOTHING_LEFT


def test_every_class_of_the_table_is_measured():
    assert {small.kind for small in SMALL.values()} == set(denoisers.DENOISERS)


def test_every_path_of_the_u_net_is_measured():
    """But for text_image, which belongs to Kandinsky 2.1: it reads images, and is refused for that."""
    told = {
        path
        for label in ACCEPTED
        for path in denoisers.open_text_paths(SMALL[label].kind, SMALL[label].settings)
    }
    stated = {path.sentence for known in denoisers.DENOISERS.values() for path in known.text_paths}
    assert {path.split(",")[0] for path in stated - told} == {"with addition_embed_type text_image"}


@pytest.mark.parametrize("label", ["SDXL", "Lumina-Next", "Hunyuan-DiT", "GLIGEN", "only_cross_attention"])
def test_inspect_and_patch_say_it_and_strict_refuses_it(label, tmp_path, capsys):
    from surgery.cli import main

    small = SMALL[label]
    small.build().save_pretrained(tmp_path / "source")
    (path,) = denoisers.open_text_paths(small.kind, small.settings)
    found = surgery.inspect_checkpoint(tmp_path / "source")
    assert found.refusal is None and found.text_paths == (path,)
    assert [f"config.json: {path}, which zeroed rows do not close"] == list(found.warnings)
    neurons = tmp_path / "neurons.json"
    layer = next(iter(found.copies[0].layers))
    neurons.write_text(json.dumps({"format": "surgery.neurons/1", "layers": {layer: [0]}}))

    words = ["patch", str(tmp_path / "source"), str(neurons), "-o", str(tmp_path / "out")]
    assert main([*words, "--strict"]) == 2
    assert f"where zeroed rows do not stop it: {path}; without --strict" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["text_paths"] == [path] and path in printed.err
    assert main(["inspect", str(tmp_path / "source"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text_paths"] == [path]


@pytest.mark.parametrize("label", ["SD1, SD2", "PixArt", "Sana", "Wan"])
def test_strict_passes_what_has_no_other_way(label, tmp_path):
    SMALL[label].build().save_pretrained(tmp_path / "source")
    layer = next(iter(surgery.inspect_checkpoint(tmp_path / "source").copies[0].layers))
    result = surgery.patch(tmp_path / "source", {layer: [0]}, tmp_path / "out", strict=True)
    assert result.text_paths == () and result.warnings == ()


@pytest.mark.parametrize("label", sorted(set(SMALL) - set(ACCEPTED)))
def test_layers_that_are_fed_no_text_are_refused(label, tmp_path):
    small = SMALL[label]
    small.build().save_pretrained(tmp_path / "source")
    assert refusal_of(small, small.settings) in surgery.inspect_checkpoint(tmp_path / "source").refusal


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("SDXL", "with addition_embed_type text_time"),
        ("pooled text embedding", "with addition_embed_type text,"),
        ("unCLIP", "with class_embed_type"),
        ("GLIGEN", "with attention_type gated"),
        ("Lumina-Next", "the mean text embedding"),
        ("Hunyuan-DiT", "the pooled T5 embedding"),
        ("SD1, SD2", None),
        ("PixArt", None),
        ("Sana", None),
        ("Wan", None),
    ],
)
def test_a_file_without_configuration_tells_its_paths_by_its_tensors(label, expected, tmp_path):
    small = SMALL[label]
    small.build().save_pretrained(tmp_path)
    found = surgery.inspect_checkpoint(tmp_path / "diffusion_pytorch_model.safetensors")
    assert found.refusal is None
    assert [path.startswith(expected or "?") for path in found.text_paths] == ([True] if expected else [])
    if small.kind != "UNet2DConditionModel":
        assert found.family == denoisers.DENOISERS[small.kind].family


def pipeline_folder(tmp_path, pipeline, components):
    folder = tmp_path / "pipeline"
    SMALL["SD1, SD2"].build().save_pretrained(folder / "unet")
    index = {"_class_name": pipeline, "unet": ["diffusers", "UNet2DConditionModel"], **components}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("pipeline", "components", "cause"),
    [
        ("StableDiffusionImageVariationPipeline", {}, "feeds attn2 the embedding of an image"),
        ("PaintByExamplePipeline", {}, "feeds attn2 the embedding of an image"),
        ("AudioLDMPipeline", {"tokenizer": [None, None]}, "gives the text as a class label"),
        ("ImageGuidedPipeline", {"image_encoder": [None, None]}, "no component of its pipeline"),
        ("StableDiffusionPipeline", {"tokenizer": [None, None]}, None),
        ("StableDiffusionPipeline", {"text_encoder": [None, None], "image_encoder": [None, None]}, None),
        ("LDMTextToImagePipeline", {"bert": [None, None]}, None),
    ],
)
def test_a_u_net_is_judged_by_what_its_pipeline_feeds_it(pipeline, components, cause, tmp_path):
    folder = pipeline_folder(tmp_path, pipeline, components)
    refusal = surgery.inspect_checkpoint(folder).refusal
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    if cause is None:
        assert refusal is None
        assert surgery.patch(folder, {layer: [0]}, tmp_path / "out").output.exists()
    else:
        assert cause in refusal
        with pytest.raises(UsageError, match=re.escape(cause)):
            surgery.patch(folder, {layer: [0]}, tmp_path / "out")


def measured_rows():
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    region = re.search(r"<!-- measured: families -->\n(.*?)<!-- end measured -->", text, re.S)
    lines = [line for line in region[1].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_measured_table_agrees_with_the_table_of_denoisers():
    import diffusers

    rows = measured_rows()
    assert len(rows) > 30
    for kinds, label, pipelines, verdict, _, left in rows:
        kind, *others = re.findall(r"`(\w+)`", kinds)
        for each in (kind, *others):
            assert hasattr(diffusers, each), f"{each} is gone: python benchmarks/families.py --write"
        for pipeline in re.findall(r"`(\w+)`", pipelines):
            assert hasattr(diffusers, pipeline)
        if label not in SMALL:
            for each in (kind, *others):
                assert verdict == f"refused: {denoisers.class_refusal(each)}".replace(f" {each}", "")
        elif verdict == "patched":
            told = "; ".join(denoisers.open_text_paths(kind, SMALL[label].settings)) or "none"
            assert label in ACCEPTED and left == told
        else:
            assert label not in ACCEPTED or "pipeline" in verdict or "more than one network" in verdict
    assert {row[1] for row in rows} >= set(SMALL)
