"""Diffusers folders: plain, variants, shards, several copies at once; patched, reloaded through diffusers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE, small_unet
from safetensors.torch import load_file, save_file

import surgery
from surgery.neurons import NeuronSet

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
UNET = "unet/diffusion_pytorch_model.safetensors"


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_only_planned_rows_differ(before: dict, after: dict, rows: dict[str, list[int]]) -> None:
    """Tensor by tensor: bit-equal, but for the planned rows, which are true zeros."""
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = tensor.clone()
        expected[rows.get(name.removesuffix(".weight"), [])] = 0
        found = after[name]
        assert found.dtype == tensor.dtype
        assert (
            found.view(torch.uint8).equal(expected.view(torch.uint8))
            if tensor.ndim
            else found.equal(expected)
        )


def test_plain_folder_differs_in_exactly_the_bytes_of_the_rows(surgery_run, sd1_folder, tmp_path, neurons):
    before = {name: (sd1_folder / name).stat().st_mtime_ns for name in files_of(sd1_folder)}
    content = {name: (sd1_folder / name).read_bytes() for name in before}
    status, out, err = surgery_run("patch", sd1_folder, neurons, "-o", tmp_path / "out")
    assert (status, err) == (0, "")
    assert "5 neurons in 2 layers" in out
    assert files_of(tmp_path / "out") == before.keys() | {"surgery-manifest.json"}
    for name in before.keys() - {UNET}:
        assert (tmp_path / "out" / name).read_bytes() == content[name]

    old = np.frombuffer(content[UNET], "u1")
    new = np.frombuffer((tmp_path / "out" / UNET).read_bytes(), "u1")
    header = int.from_bytes(content[UNET][:8], "little")
    index = json.loads(content[UNET][8 : 8 + header])
    allowed = np.zeros(len(old), bool)
    for layer, rows in ROWS.items():
        begin = 8 + header + index[f"{layer}.weight"]["data_offsets"][0]
        for row in rows:
            allowed[begin + row * 24 * 4 : begin + (row + 1) * 24 * 4] = True
    assert (old != new)[~allowed].sum() == 0
    assert new[allowed].sum() == 0

    assert {name: (sd1_folder / name).stat().st_mtime_ns for name in before} == before
    assert {name: (sd1_folder / name).read_bytes() for name in before} == content


def test_zeroed_weights_do_what_ablating_hooks_do(sd1_folder, sd1_pipeline, tmp_path):
    from diffusers import StableDiffusionPipeline

    result = surgery.patch(sd1_folder, ROWS, tmp_path / "out")
    patched = StableDiffusionPipeline.from_pretrained(result.output)
    original = StableDiffusionPipeline.from_pretrained(sd1_folder)

    def ablate(rows):
        def hook(module, inputs, output):
            output = output.clone()
            output[..., rows] = 0
            return output

        return hook

    handles = [
        original.unet.get_submodule(layer).register_forward_hook(ablate(rows)) for layer, rows in ROWS.items()
    ]
    torch.manual_seed(3)
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 24)
    with torch.no_grad():
        ablated = original.unet(latents, 10, text).sample
        zeroed = patched.unet(latents, 10, text).sample
        for handle in handles:
            handle.remove()
        untouched = original.unet(latents, 10, text).sample
    assert zeroed.equal(ablated)
    assert not zeroed.equal(untouched)


def test_several_copies_are_all_patched_and_load_by_variant(sd1_pipeline, tmp_path):
    """Full precision, fp16 and non_ema together, the fp16 one in shards."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    source = tmp_path / "source"
    sd1_pipeline.save_pretrained(source)
    half = StableDiffusionPipeline.from_pretrained(source, torch_dtype=torch.float16)
    half.save_pretrained(source, variant="fp16")
    (source / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    half.unet.save_pretrained(source / "unet", variant="fp16", max_shard_size="1MB")
    small_unet(in_channels=4).save_pretrained(source / "unet", variant="non_ema")
    shards = [name for name in files_of(source) if "-of-" in name]
    assert len(shards) >= 3

    result = surgery.patch(source, ROWS, tmp_path / "out")
    assert {copy.variant: len(copy.files) for copy in result.copies} == {
        "": 1,
        "fp16": len(shards),
        "non_ema": 1,
    }
    assert files_of(source) | {"surgery-manifest.json"} == files_of(result.output)
    for variant in (None, "fp16", "non_ema"):
        dtype = torch.float16 if variant == "fp16" else torch.float32
        before, after = (
            UNet2DConditionModel.from_pretrained(
                folder / "unet", variant=variant, torch_dtype=dtype, use_safetensors=True
            ).state_dict()
            for folder in (source, result.output)
        )
        assert_only_planned_rows_differ(before, after, ROWS)
    loaded = StableDiffusionPipeline.from_pretrained(result.output, variant="fp16", torch_dtype=torch.float16)
    assert loaded.unet.get_submodule(MIDDLE).weight[[3, 7, 8]].count_nonzero() == 0
    assert surgery.diff(source, result.output, plan=NeuronSet(ROWS)).as_planned


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_floating_dtype_gets_true_zero_bytes(model, tmp_path, dtype):
    tensors = {name: value.to(dtype) for name, value in load_file(model / UNET).items()}
    tensors[f"{MIDDLE}.weight"][3] = -tensors[f"{MIDDLE}.weight"][3].abs()  # times 0 this would be -0.0
    save_file(tensors, model / UNET, metadata={"format": "pt", "note": "kept"})
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert_only_planned_rows_differ(tensors, load_file(result.output / UNET), ROWS)
    old, new = (model / UNET).read_bytes(), (result.output / UNET).read_bytes()
    header = 8 + int.from_bytes(old[:8], "little")
    assert old[:header] == new[:header]  # order, metadata and dtypes stay


def test_a_component_folder_alone_can_be_patched(model, tmp_path):
    from diffusers import UNet2DConditionModel

    result = surgery.patch(model / "unet", ROWS, tmp_path / "out")
    loaded = UNet2DConditionModel.from_pretrained(result.output)
    assert_only_planned_rows_differ(load_file(model / UNET), loaded.state_dict(), ROWS)
    assert surgery.diff(model / "unet", result.output, plan=ROWS).as_planned


def test_pickles_of_other_components_become_safetensors(sd1_pipeline, sd1_folder, tmp_path):
    """With one component left as .bin, diffusers would take pickles for a Hub repository's whole pipeline."""
    from diffusers import StableDiffusionPipeline

    source = tmp_path / "source"
    sd1_pipeline.save_pretrained(source)
    text = source / "text_encoder" / "model.safetensors"
    torch.save(load_file(text), text.with_name("pytorch_model.bin"))
    text.unlink()
    vae = source / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(vae), vae.with_suffix(".bin"))
    vae.unlink()

    result = surgery.patch(source, ROWS, tmp_path / "out")
    assert files_of(result.output) == files_of(sd1_folder) | {"surgery-manifest.json"}
    loaded = StableDiffusionPipeline.from_pretrained(result.output)
    for part in ("vae", "text_encoder"):
        before, after = getattr(sd1_pipeline, part).state_dict(), getattr(loaded, part).state_dict()
        assert_only_planned_rows_differ(before, after, {})
    assert surgery.diff(source, result.output, plan=ROWS).as_planned
    # the weights are those of the folder that was never pickled, but the manifest speaks of another source
    other = surgery.diff(sd1_folder, result.output, plan=ROWS).violations
    assert other == ("surgery-manifest.json is not the one that patch writes for this plan: files, source",)


def test_symbolic_links_hard_links_and_read_only_sources(model, tmp_path):
    weights = model / UNET
    shutil.move(weights, tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    (tmp_path / "second name").hardlink_to(model / "vae" / "diffusion_pytorch_model.safetensors")
    content = weights.read_bytes()
    for path in model.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert not (result.output / UNET).is_symlink()
    assert weights.read_bytes() == content != (result.output / UNET).read_bytes()
    assert (result.output / UNET).stat().st_mode & 0o200  # the copy is the user's own
    for path in [model, *model.rglob("*")]:
        path.chmod(0o755)
