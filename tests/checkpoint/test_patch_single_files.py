"""Single files of every family, written under the original names and LOADED by diffusers to prove them."""

from __future__ import annotations

import pytest
import torch
from checkpoint_builders import (
    DOWN,
    FAMILIES,
    MIDDLE,
    save_single_file,
    single_file_tensors,
    small_unet,
    vae_and_text_tensors,
)
from safetensors.torch import load_file

import surgery
from surgery.errors import UsageError

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_patched_by_name_and_loads(family, tmp_path):
    from diffusers import UNet2DConditionModel

    unet = small_unet(family)
    source = save_single_file(tmp_path / "model.safetensors", single_file_tensors(unet, ema=True))
    unet.save_config(tmp_path / "config" / "unet")
    result = surgery.patch(source, ROWS, tmp_path / "out.safetensors")
    assert sorted(copy.naming for copy in result.copies) == ["EMA", "single file"]

    loaded = UNet2DConditionModel.from_single_file(
        str(result.output), config=str(tmp_path / "config"), subfolder="unet", local_files_only=True
    )
    for name, tensor in unet.state_dict().items():
        expected = tensor.clone()
        expected[ROWS.get(name.removesuffix(".weight"), [])] = 0
        assert loaded.state_dict()[name].equal(expected), name
    assert surgery.diff(source, result.output, plan=ROWS).as_planned


def test_whole_single_file_loads_as_a_pipeline_and_matches_the_patched_folder(
    sd1_pipeline, sd1_folder, tmp_path
):
    from diffusers import StableDiffusionPipeline

    tensors = single_file_tensors(sd1_pipeline.unet) | vae_and_text_tensors(sd1_pipeline)
    source = save_single_file(tmp_path / "model.safetensors", tensors)
    folder = surgery.patch(sd1_folder, ROWS, tmp_path / "folder").output
    single = surgery.patch(source, ROWS, tmp_path / "out.safetensors").output
    one = StableDiffusionPipeline.from_pretrained(folder)
    other = StableDiffusionPipeline.from_single_file(
        str(single), config=str(sd1_folder), local_files_only=True
    )
    for part in ("unet", "vae", "text_encoder"):
        states = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(states[0][name].equal(states[1][name]) for name in states[0])

    across = surgery.diff(folder, single)
    assert across.layouts_differ
    assert {each.label: each.compared for each in across.sets} == {
        part: len(getattr(one, part).state_dict()) for part in ("unet", "vae", "text_encoder")
    }
    assert not any(each.changed or each.added or each.removed for each in across.sets)
    assert surgery.diff(sd1_folder, single, plan=ROWS).as_planned
    assert not surgery.diff(sd1_folder, source, plan=ROWS).as_planned


def test_denoiser_without_prefix(tmp_path):
    unet = small_unet()
    source = save_single_file(tmp_path / "unet.safetensors", single_file_tensors(unet, prefix=""))
    result = surgery.patch(source, ROWS, tmp_path / "out.safetensors")
    tensors = load_file(result.output)
    assert tensors["middle_block.1.transformer_blocks.0.attn2.to_v.weight"][[3, 7, 8]].count_nonzero() == 0
    assert surgery.diff(source, result.output, plan=ROWS).as_planned
    assert result.manifest_path.name == "out.safetensors.surgery-manifest.json"


@pytest.mark.parametrize(
    ("family", "shown"),
    [("SD1", "SD1"), ("SD2", "SD2"), ("inpainting", "SD1, inpainting"), ("SDXL base", "SDXL base")],
)
def test_family_is_read_from_the_tensors(family, shown, tmp_path):
    widths = {"SD1": 768, "SD2": 1024, "inpainting": 768, "SDXL base": 2048}
    unet = small_unet(family, cross_attention_dim=widths[family])
    source = save_single_file(tmp_path / "model.safetensors", single_file_tensors(unet))
    assert surgery.inspect_checkpoint(source).family == shown
    unet.save_pretrained(tmp_path / "unet")
    assert surgery.inspect_checkpoint(tmp_path / "unet").family == shown


def test_other_block_layouts_are_refused(tmp_path):
    """Three layers per block shift every number: the table would name wrong blocks."""
    tensors = single_file_tensors(small_unet())
    tensors["model.diffusion_model.input_blocks.3.0.in_layers.0.weight"] = torch.ones(32)
    source = save_single_file(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UsageError, match="block layout"):
        surgery.patch(source, ROWS, tmp_path / "out.safetensors")
