"""Every way in which a checkpoint could republish the memory after patching, one test each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE, single_file_tensors, small_unet
from safetensors.torch import load_file, save_file

import surgery
from surgery.errors import UsageError

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
UNET = "unet/diffusion_pytorch_model.safetensors"
KEY = f"{MIDDLE}.weight"


def sought_row(folder: Path) -> torch.Tensor:
    return load_file(folder / UNET)[KEY][7]


def assert_nowhere(output: Path, row: torch.Tensor) -> None:
    """No file of the output holds the bytes of the row, in any dtype, under any name."""
    for path in filter(Path.is_file, output.rglob("*")):
        content = path.read_bytes()
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            needle = row.to(dtype).view(torch.uint8).numpy().tobytes()
            assert needle not in content, f"{path} holds the row as {dtype}"


def test_stale_index_would_win_over_the_patched_file(model, tmp_path):
    """Shards and index of an earlier save: diffusers loads them, not the plain file beside them."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    plain = (model / UNET).read_bytes()
    unet.save_pretrained(model / "unet", max_shard_size="2MB")
    (model / UNET).write_bytes(plain)
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert len(result.copies) == 2
    assert (
        UNet2DConditionModel.from_pretrained(result.output / "unet").state_dict()[KEY][7].count_nonzero() == 0
    )
    assert_nowhere(result.output, sought_row(model))


def test_index_whose_shards_are_gone_is_left_out(model, tmp_path):
    from diffusers import UNet2DConditionModel

    index = model / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {KEY: "diffusion_pytorch_model-00001-of-00002.safetensors"}}))
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert any("stale index" in file.reason for file in result.left_out)
    assert (
        UNet2DConditionModel.from_pretrained(result.output / "unet").state_dict()[KEY][7].count_nonzero() == 0
    )


def test_pickled_twin_of_a_patched_file_is_left_out(model, tmp_path):
    torch.save(load_file(model / UNET), model / "unet" / "diffusion_pytorch_model.bin")
    torch.save(load_file(model / UNET), model / "unet" / "diffusion_pytorch_model.non_ema.bin")
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert not list(result.output.rglob("*.bin"))
    assert [file.path for file in result.left_out] == ["unet/diffusion_pytorch_model.bin"]
    assert (result.output / "unet" / "diffusion_pytorch_model.non_ema.safetensors").is_file()
    assert_nowhere(result.output, sought_row(model))


def test_fused_projections_hold_a_second_copy(model, tmp_path):
    """`fuse_qkv_projections` leaves `to_v` in place and adds `to_kv`, which is the one that is used."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    unet.fuse_qkv_projections()
    unet.save_pretrained(model / "unet")
    with pytest.raises(UsageError, match=r"fused projections.*unfuse_qkv_projections"):
        surgery.patch(model, ROWS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["renamed.tensor", "stacked.kv"])
@pytest.mark.parametrize("file", [UNET, "vae/diffusion_pytorch_model.safetensors"])
def test_second_copy_under_an_unknown_name_is_found_by_its_numbers(model, tmp_path, name, file, dtype):
    rows = load_file(model / UNET)[KEY]
    copy = torch.cat([torch.randn_like(rows), rows]) if name == "stacked.kv" else rows
    tensors = load_file(model / file)
    save_file(tensors | {name: copy.to(dtype).contiguous()}, model / file)
    with pytest.raises(UsageError, match=rf"{name} holds a second copy of row 3 of {MIDDLE}"):
        surgery.patch(model, ROWS, tmp_path / "out")


def test_ema_twin_inside_a_single_file_is_zeroed_too(tmp_path):
    unet = small_unet()
    source = tmp_path / "model.safetensors"
    save_file(single_file_tensors(unet, ema=True), source)
    result = surgery.patch(source, ROWS, tmp_path / "out.safetensors")
    assert [copy.is_ema for copy in result.copies] == [False, True]
    tensors = load_file(result.output)
    names = [name for name in tensors if "middle_block" in name and "attn2" in name and "to_v" in name]
    assert len(names) == 2
    assert all(tensors[name][[3, 7, 8]].count_nonzero() == 0 for name in names)
    assert all(tensors[name][0].count_nonzero() for name in names)


def test_single_files_beside_the_pipeline_are_patched_or_left_out(model, tmp_path):
    unet = small_unet()
    save_file(single_file_tensors(unet, ema=True), model / "v1-5-pruned.safetensors")
    save_file({"lora_unet_mid_attn2_to_v.lora_down.weight": torch.ones(4, 4)}, model / "style.safetensors")
    other_model = single_file_tensors(small_unet(cross_attention_dim=32))
    save_file(other_model, model / "refiner.safetensors")
    torch.save(single_file_tensors(unet), model / "v1-5-pruned.ckpt")
    (model / "v1-5-ema.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert {file.path for file in result.left_out} == {
        "v1-5-ema.safetensors",
        "style.safetensors",
        "refiner.safetensors",
        "v1-5-pruned.ckpt",
    }
    assert len(result.copies) == 3
    assert_nowhere(result.output, sought_row(model))


def test_copies_for_other_frameworks_archives_and_hidden_files_are_left_out(model, tmp_path):
    content = (model / UNET).read_bytes()
    leave_out = [
        "unet/diffusion_flax_model.msgpack",
        "unet/model.onnx",
        "unet/model.onnx_data",
        "unet/openvino_model.bin",
        "unet/openvino_model.xml",
        "unet/model.flashpack",
        "unet/Diffusion_Pytorch_Model.SAFETENSORS",
        "unet/diffusion_pytorch_model.safetensors.bak",
        "unet/.diffusion_pytorch_model.safetensors.swp",
        "unet/backup.safetensors",
        "unet/weights.pt",
        "unet/old/diffusion_pytorch_model.safetensors",
        "unet_ema/diffusion_pytorch_model.safetensors",
        "UNET/diffusion_pytorch_model.safetensors",
        "model-q4.gguf",
        "backup.zip",
        "everything.tar.gz",
        ".git/lfs/objects/ab/cd/abcd",
        ".cache/huggingface/download/x",
        "samples/grid.png",
        "README.md",
        "pipeline.py",
    ]
    for name in leave_out:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    result = surgery.patch(model, ROWS, tmp_path / "out")
    written = {str(path.relative_to(result.output)) for path in result.output.rglob("*") if path.is_file()}
    assert not written & set(leave_out)
    listed = {file.path for file in result.left_out}
    assert {name for name in leave_out if not any(name.startswith(path) for path in listed)} == set()
    assert all(file.reason for file in result.left_out)
    assert_nowhere(result.output, sought_row(model))
    assert surgery.diff(model, result.output, plan=ROWS).as_planned


@pytest.mark.parametrize(
    "name",
    ["tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/vocab.txt", "vae/config.json"],
)
def test_weights_in_disguise_are_refused(model, tmp_path, name):
    shutil.copy(model / UNET, model / name)
    with pytest.raises(UsageError, match=name):
        surgery.patch(model, ROWS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_value_layers_in_another_component_are_refused(model, tmp_path):
    """A ControlNet starts as a copy of the U-Net: its value layers would carry the memory."""
    shutil.copytree(model / "unet", model / "controlnet")
    index = json.loads((model / "model_index.json").read_text())
    index["controlnet"] = ["diffusers", "ControlNetModel"]
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"more than one network has cross-attention \(controlnet, unet\)"):
        surgery.patch(model, ROWS, tmp_path / "out")


def test_shard_index_cannot_lead_out_of_its_folder(model, tmp_path):
    (model / UNET).rename(tmp_path / "secret.safetensors")
    index = model / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for name in ("../../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", ""):
        index.write_text(json.dumps({"weight_map": {KEY: name}}))
        with pytest.raises(UsageError, match="which is no weight file of its folder"):
            surgery.patch(model, ROWS, tmp_path / "out")


def test_component_name_cannot_lead_out_of_the_checkpoint(model, tmp_path):
    index = json.loads((model / "model_index.json").read_text())
    for name in ("..", "../x", "a/b"):
        (model / "model_index.json").write_text(json.dumps(index | {name: ["diffusers", "X"]}))
        with pytest.raises(UsageError, match="impossible component"):
            surgery.patch(model, ROWS, tmp_path / "out")


def test_hub_cache_is_read_through_its_links_and_never_written(sd1_folder, tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline

    cache = tmp_path / "hub"
    repository = cache / "models--someone--small-model"
    snapshot = repository / "snapshots" / ("a" * 40)
    for place, path in enumerate(sorted(filter(Path.is_file, sd1_folder.rglob("*")))):
        blob = repository / "blobs" / f"{place:064d}"
        link = snapshot / path.relative_to(sd1_folder)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        blob.chmod(0o444)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in repository.rglob("*") if path.is_file()
    }
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))

    result = surgery.patch("someone/small-model", ROWS, tmp_path / "out")
    assert result.manifest["source"] | {"family": ""} == {
        "name": "someone/small-model",
        "kind": "pipeline folder",
        "family": "",
        "revision": "a" * 40,
    }
    assert not any(path.is_symlink() for path in result.output.rglob("*"))
    loaded = DiffusionPipeline.from_pretrained(result.output)
    assert loaded.unet.state_dict()[KEY][7].count_nonzero() == 0
    assert surgery.diff(snapshot, result.output, plan=ROWS).as_planned
    for output in (snapshot / "patched", repository / "snapshots" / "new"):
        with pytest.raises(UsageError, match="inside the"):
            surgery.patch("someone/small-model", ROWS, output)
    after = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in repository.rglob("*") if path.is_file()
    }
    assert after == before
    with pytest.raises(UsageError, match="no snapshot of revision 'other'"):
        surgery.patch("someone/small-model", ROWS, tmp_path / "out2", revision="other")
    with pytest.raises(UsageError, match="hf download someone/else"):
        surgery.patch("someone/else", ROWS, tmp_path / "out2")


def test_row_already_zero_in_the_source_is_no_obstacle(model, tmp_path):
    tensors = load_file(model / UNET)
    tensors[KEY][3] = 0
    save_file(tensors, model / UNET)
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert surgery.diff(model, result.output, plan=ROWS).as_planned
    assert np.count_nonzero(load_file(result.output / UNET)[KEY][[3, 7, 8]]) == 0


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_to_private_files_are_not_followed(model, tmp_path, kind):
    """A downloaded checkpoint could link a text file to a secret, and the output is made to be published."""
    private = tmp_path / "home"
    private.mkdir()
    (private / "config.json").write_text('{"auths": {"registry": {"auth": "c2VjcmV0"}}}')
    if kind == "file":
        (model / "LICENSE").symlink_to(private / "config.json")
    else:
        index = json.loads((model / "model_index.json").read_text())
        (model / "model_index.json").write_text(
            json.dumps(index | {"feature_extractor": ["transformers", "X"]})
        )
        (model / "feature_extractor").symlink_to(private)
    with pytest.raises(UsageError, match=r"outside the checkpoint by a symbolic link.*--follow-links"):
        surgery.patch(model, ROWS, tmp_path / "out")
    assert surgery.patch(model, ROWS, tmp_path / "out", follow_links=True).output.exists()


def test_links_within_the_checkpoint_are_followed(model, tmp_path):
    (model / "unet" / "LICENSE").write_text("free")
    (model / "LICENSE").symlink_to("unet/LICENSE")
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert (result.output / "LICENSE").read_text() == "free" and not (result.output / "LICENSE").is_symlink()


def test_names_that_a_terminal_would_obey_are_escaped(model, tmp_path):
    for name in (b"unet/evil\x1b[2J.json", b"unet/not-\xff-utf8.json", b"unet/two\nlines.json"):
        Path(bytes(model).decode() + "/" + name.decode("utf-8", "surrogateescape")).write_bytes(b"{}")
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert len(result.left_out) == 3
    assert all(file.path.isprintable() and "not printable" in file.reason for file in result.left_out)
    assert "\\x1b" in "".join(file.path for file in result.left_out)


def test_copy_under_names_that_nobody_knows_is_refused(model, tmp_path):
    """A variant whose value layers are neither named nor shaped as such (transposed)."""
    tensors = {
        f"blk.{place}": value.t().contiguous() if value.ndim == 2 else value
        for place, value in enumerate(load_file(model / UNET).values())
    }
    save_file(tensors, model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(UsageError, match="holds no value layers under a name that is known"):
        surgery.patch(model, ROWS, tmp_path / "out")
