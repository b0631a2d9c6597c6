"""Every refusal, through the command line: one line with cause and way out, status 2, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE, single_file_tensors, small_unet, write_neurons
from safetensors.torch import load_file, save_file

import surgery
from surgery.errors import UsageError
from surgery.model.value_layers import denoiser_fingerprint

UNET = "unet/diffusion_pytorch_model.safetensors"
KEY = f"{MIDDLE}.weight"


def listing(folder):
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def edit_config(model, **changes):
    path = model / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(model, change):
    tensors = load_file(model / UNET)
    change(tensors)
    save_file(tensors, model / UNET)


def quantize(dtype):
    def change(tensors):
        tensors[KEY] = tensors[KEY].to(dtype)

    return lambda model: edit_weights(model, change)


def add(name, value=None):
    return lambda model: edit_weights(
        model, lambda tensors: tensors.__setitem__(name, value or torch.ones(2))
    )


def with_metadata(model):
    save_file(load_file(model / UNET), model / UNET, metadata={"torchao_version": "0.9"})


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2"
SOURCES = {
    "quantization in the configuration": (
        lambda model: edit_config(model, quantization_config={"quant_method": "bitsandbytes"}),
        "the denoiser is quantized; patch the unquantized checkpoint",
    ),
    "eight bits": (quantize(torch.int8), "dtype I8"),
    "eight bits, unsigned": (quantize(torch.uint8), "dtype U8"),
    "eight bits, floating": (quantize(torch.float8_e4m3fn), "dtype F8_E4M3"),
    "bitsandbytes, four bits": (add(f"{KEY}.quant_state.bitsandbytes__nf4"), "holds quantized weights"),
    "bitsandbytes, eight bits": (add(f"{LAYER}.to_v.SCB"), "holds quantized weights"),
    "scaled eight bits": (add("scaled_fp8"), "holds quantized weights"),
    "torchao": (with_metadata, "torchao"),
    "fused to_kv": (add(f"{LAYER}.to_kv.weight"), "fused projections"),
    "fused to_qkv": (add(f"{LAYER}.to_qkv.weight"), "fused projections"),
    "fused kv_linear": (add("blocks.0.cross_attn.kv_linear.weight"), "fused key-value projections"),
    "unmerged LoRA": (add(f"{LAYER}.to_v.lora_A.default.weight"), "unmerged LoRA"),
    "wrapped by PEFT": (add(f"{LAYER}.to_v.base_layer.weight"), "unmerged LoRA"),
    "IP-Adapter": (add(f"{LAYER}.processor.to_v_ip.0.weight"), "IP-Adapter"),
    "joint attention": (add("transformer_blocks.0.attn.add_v_proj.weight"), "joint-attention"),
    "dual attention": (
        lambda model: edit_config(model, dual_cross_attention=True),
        "with dual_cross_attention, attn2 is not text cross-attention",
    ),
    "double self-attention": (
        lambda model: edit_config(model, double_self_attention=True),
        "with double_self_attention, attn2 is not text cross-attention",
    ),
    "not as wide as the text": (
        lambda model: edit_config(model, cross_attention_dim=32),
        "reads 24 numbers, not the text embedding's [32]",
    ),
    "unknown class": (lambda model: edit_config(model, _class_name="MyUNet"), "class MyUNet is not known"),
    "no configuration": (
        lambda model: (model / "unet" / "config.json").unlink(),
        "unet/config.json: no such file",
    ),
    "broken configuration": (
        lambda model: (model / "unet" / "config.json").write_text("{"),
        "not valid JSON",
    ),
    "no index": (lambda model: (model / "model_index.json").unlink(), "neither model_index.json nor"),
    "no weights": (lambda model: (model / UNET).unlink(), "holds no weights of the denoiser"),
    "cut short": (lambda model: os.truncate(model / UNET, 1_000_000), "is cut short"),
    "git-lfs pointer": (
        lambda model: (model / UNET).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git-lfs pointer, not the weights; run `git lfs pull`",
    ),
    "broken component": (
        lambda model: os.truncate(model / "vae" / "diffusion_pytorch_model.safetensors", 100),
        "vae/diffusion_pytorch_model.safetensors: is cut short",
    ),
    "lone shard": (
        lambda model: (model / UNET).rename(model / UNET.replace(".saf", "-00001-of-00002.saf")),
        "is a shard, but no index names it",
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_source_is_refused(case, surgery_run, model, neurons, tmp_path):
    change, message = SOURCES[case]
    change(model)
    assert_refused(surgery_run, tmp_path, message, "patch", model, neurons, "-o", tmp_path / "out")


def assert_refused(surgery_run, tmp_path, message, *words, status=2):
    before = listing(tmp_path)
    found, out, err = surgery_run(*words)
    assert (found, out) == (status, "")
    assert message in err
    assert err.startswith(f"surgery {words[0]}: ") and err.count("\n") == 1 and ";" in err
    assert "Traceback" not in err
    assert listing(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"up_blocks.9.attentions.0.transformer_blocks.0.attn2.to_v": [0]}, "unet has no such value layer"),
        ({MIDDLE: [64]}, "unet has rows 0 to 63, not 64"),
        ({MIDDLE.replace("attn2", "attn1"): [0]}, "no such value layer"),
        ({MIDDLE: [-1]}, "not an integer of at least 0"),
        ({}, "there is no neuron to zero"),
    ],
)
def test_neurons_are_refused(surgery_run, model, tmp_path, layers, message):
    path = write_neurons(tmp_path / "neurons.json", layers)
    assert_refused(surgery_run, tmp_path, message, "patch", model, path, "-o", tmp_path / "out")


def live_fingerprint(model):
    """As localization makes it: from the live denoiser, not from the bytes it is compared with."""
    from diffusers import UNet2DConditionModel

    return denoiser_fingerprint(UNet2DConditionModel.from_pretrained(model / "unet"))


def test_neurons_of_another_model_are_refused_unless_forced(surgery_run, model, tmp_path):
    fingerprint = live_fingerprint(model)
    path = write_neurons(tmp_path / "neurons.json", {MIDDLE: [3]}, fingerprint=fingerprint)
    assert surgery_run("patch", model, path, "-o", tmp_path / "same")[0] == 0
    half = {name: tensor.half() for name, tensor in load_file(model / UNET).items()}
    save_file(half, model / UNET)
    assert surgery_run("patch", model, path, "-o", tmp_path / "half")[0] == 0

    edit_weights(model, lambda tensors: tensors[KEY].mul_(1.01))
    words = ("patch", model, path, "-o", tmp_path / "out")
    assert_refused(surgery_run, tmp_path, "found in another model: the weights of mid_block", *words)
    status, _, err = surgery_run(*words, "--any-model")
    assert status == 0 and "warning: the neurons were found in another model" in err
    manifest = json.loads((tmp_path / "out" / "surgery-manifest.json").read_text())
    assert manifest["neurons"]["fingerprint"] == "differs"
    write_neurons(path, {MIDDLE: [3]}, fingerprint={"scheme": "row-norms/1"})
    assert_refused(surgery_run, tmp_path, "cannot be read", "patch", model, path, "-o", tmp_path / "out2")


def test_one_matching_copy_vouches_for_its_ema_twin(model, tmp_path):
    neurons = write_neurons(tmp_path / "n.json", {MIDDLE: [3]}, fingerprint=live_fingerprint(model))
    source = tmp_path / "model.safetensors"
    save_file(single_file_tensors(small_unet(), ema=True), source)
    result = surgery.patch(source, neurons, tmp_path / "out.safetensors")
    assert result.manifest["neurons"]["fingerprint"] == "matches"
    assert any("EMA" in warning for warning in result.warnings)


def test_output_is_refused(surgery_run, model, neurons, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("dear all")
    (tmp_path / "link").symlink_to(model)
    for output, message in (
        (model, "is the source itself"),
        (tmp_path / "link", "is the source itself"),
        (model / "patched", "lies inside the source"),
        (model / "unet" / "patched", "lies inside the source"),
        (tmp_path, "contains the source"),
        (tmp_path / "no" / "out", "no such folder"),
        (tmp_path / "theirs", "exists"),
    ):
        assert_refused(surgery_run, tmp_path, message, "patch", model, neurons, "-o", output)
        if message == "exists":
            message = "not a checkpoint that surgery wrote"
        assert_refused(surgery_run, tmp_path, message, "patch", model, neurons, "-o", output, "--force")


def test_forced_output_must_not_hold_source_files(surgery_run, model, neurons, tmp_path):
    """An earlier output whose U-Net the new source links to: replacing it would delete the source."""
    assert surgery_run("patch", model, neurons, "-o", tmp_path / "out")[0] == 0
    shutil.rmtree(model / "unet")
    (model / "unet").symlink_to(tmp_path / "out" / "unet")
    words = ("patch", model, neurons, "-o", tmp_path / "out", "--force")
    assert_refused(surgery_run, tmp_path, "holds a file of the source", *words)


def test_single_file_output_must_be_safetensors(surgery_run, model, neurons, tmp_path):
    for output, message in (
        (tmp_path / "out.ckpt", "does not end in .safetensors"),
        (model / UNET, "is the source itself"),
    ):
        assert_refused(surgery_run, tmp_path, message, "patch", model / UNET, neurons, "-o", output)


def test_too_little_space_is_refused_before_the_first_byte(
    surgery_run, model, neurons, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    assert_refused(
        surgery_run, tmp_path, "0.00 GB are free there", "patch", model, neurons, "-o", tmp_path / "out"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("README.md", b"# a card", None),
        ("grid.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), None),
        ("unet/notes.txt", "naïve".encode(), None),
        ("model_index.json", None, None),
        ("nothing.txt", None, "the checkpoint has no such file"),
        ("../neurons.json", None, "the checkpoint has no such file"),
        ("weights.txt", bytes(range(256)), "could hold denoiser weights"),
        ("backup.zip", b"text", "could hold denoiser weights"),
        ("unet/backup.safetensors", b"text", "could hold denoiser weights"),
        ("unet/diffusion_flax_model.msgpack", b"text", "could hold denoiser weights"),
        ("big.txt", b"a" * (17 * 1024 * 1024), "could hold denoiser weights"),
        ("old/README.md", b"text", None),
    ],
)
def test_keep_carries_text_and_pictures_only(surgery_run, model, neurons, tmp_path, name, content, message):
    if content is not None:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(content)
    words = ("patch", model, neurons, "-o", tmp_path / "out", "--keep", name)
    if message:
        assert_refused(surgery_run, tmp_path, message, *words)
    else:
        assert surgery_run(*words)[0] == 0
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()


def test_source_is_no_checkpoint(surgery_run, neurons, tmp_path):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.safetensors").write_text("hello")
    for source, message in (
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "empty", "neither model_index.json nor config.json"),
        (tmp_path / "pipe", "neither a folder nor a regular file"),
        (tmp_path / "text.safetensors", "is cut short"),
        ("some/model", "no such model in the Hugging Face cache; download it first: hf download some/model"),
        ("x" * 5000, "path"),
    ):
        output = tmp_path / "out.safetensors"
        for words in (
            ("patch", source, neurons, "-o", output),
            ("diff", source, source),
            ("inspect", source),
        ):
            found, out, err = surgery_run(*words)
            assert (found, out) == (2, "") and message in err and err.count("\n") == 1


def test_pipes_and_dangling_links_inside_the_source_are_left_out(model, tmp_path):
    os.mkfifo(model / "unet" / "tokenizer.json")
    (model / "vae" / "chat_template.json").symlink_to("nowhere")
    result = surgery.patch(model, {MIDDLE: [3]}, tmp_path / "out")
    assert {file.path: file.reason for file in result.left_out} == {
        "unet/tokenizer.json": "not a regular file",
        "vae/chat_template.json": "a symbolic link that leads nowhere",
    }


def test_unreadable_tolerance_is_refused(surgery_run, model, tmp_path):
    for tolerance in ("-1", "nan", "inf"):
        assert_refused(surgery_run, tmp_path, "--tolerance", "diff", model, model, f"--tolerance={tolerance}")


def test_only_cross_attention_is_a_warning(model, tmp_path):
    edit_config(model, only_cross_attention=True)
    assert "attn1 reads the text too" in surgery.patch(model, {MIDDLE: [3]}, tmp_path / "out").warnings[0]


def test_layer_missing_in_one_copy_only_is_refused(model, tmp_path):
    tensors = load_file(model / UNET)
    del tensors[f"{DOWN}.weight"]
    save_file(tensors, model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(UsageError, match=r"unet \(fp16\) has no such value layer"):
        surgery.patch(model, {DOWN: [0]}, tmp_path / "out")
