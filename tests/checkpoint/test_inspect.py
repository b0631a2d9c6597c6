"""Inspect: family, roles, copies, actions; and that the bytes wing never imports torch."""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from checkpoint_builders import DOWN, MIDDLE, single_file_tensors, small_unet
from safetensors.torch import load_file, save_file

import surgery

UNET = "unet/diffusion_pytorch_model.safetensors"


def test_folder_with_many_copies(surgery_run, model):
    half = {name: tensor.half() for name, tensor in load_file(model / UNET).items()}
    save_file(half, model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    torch.save(half, model / "unet" / "diffusion_pytorch_model.fp16.bin")
    torch.save(half, model / "unet" / "diffusion_pytorch_model.non_ema.bin")
    save_file(single_file_tensors(small_unet(), ema=True), model / "v1-5-pruned.safetensors")
    (model / "unet" / "diffusion_flax_model.msgpack").write_bytes(b"flax")
    status, out, err = surgery_run("inspect", model, "--json")
    assert status == 0 and "pickles are not looked into" in err
    document = json.loads(out)
    assert document["kind"] == "pipeline folder" and document["refusal"] is None
    assert {copy["label"]: (copy["dtypes"], copy["naming"], copy["ema"]) for copy in document["copies"]} == {
        "unet": (["F32"], "diffusers", False),
        "unet (fp16)": (["F16"], "diffusers", False),
        "v1-5-pruned.safetensors": (["F32"], "single file", False),
        "v1-5-pruned.safetensors (EMA)": (["F32"], "EMA", True),
    }
    layers = document["copies"][0]["value_layers"]
    assert len(layers) == 16
    assert layers[MIDDLE] == {"rows": 64, "columns": 24, "bias": False}
    actions = {file["path"]: (file["action"], file["output"]) for file in document["files"]}
    assert actions[UNET] == ("patch", UNET)
    assert actions["vae/diffusion_pytorch_model.safetensors"][0] == "copy"
    assert actions["unet/diffusion_pytorch_model.fp16.bin"] == ("leave out", None)
    assert actions["unet/diffusion_flax_model.msgpack"] == ("leave out", None)
    assert actions["unet/diffusion_pytorch_model.non_ema.bin"] == (
        "convert",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    )
    roles = {file["path"]: file["role"] for file in document["files"]}
    assert roles["unet/diffusion_pytorch_model.non_ema.bin"] == roles[UNET] == "denoiser weights"

    status, out, _ = surgery_run("inspect", model)
    assert status == 0 and "patch would accept it" in out and f"{MIDDLE}" in out


def test_what_patch_would_refuse_is_said(surgery_run, model):
    tensors = load_file(model / UNET)
    save_file(tensors | {f"{MIDDLE}.SCB": torch.ones(1)}, model / UNET)
    status, out, _ = surgery_run("inspect", model)
    assert (
        status == 0 and "patch would refuse: unet/diffusion_pytorch_model.safetensors: holds quantized" in out
    )


NO_TORCH = """
import json, sys
from pathlib import Path
import surgery
from surgery.cli import main
source, output, rows, neurons = json.loads(sys.argv[1])
surgery.inspect_checkpoint(source)
surgery.patch(source, rows, output)
assert surgery.diff(source, output, plan=rows).as_planned
assert main(["inspect", source, "--quiet"]) == 0
assert main(["patch", source, neurons, "-o", output, "--force", "--quiet"]) == 0
assert main(["diff", source, output, "--plan", neurons]) == 0
heavy = {"torch", "diffusers", "transformers", "huggingface_hub", "safetensors", "PIL"} & sys.modules.keys()
print("heavy:", sorted(heavy))
"""


def test_no_torch_for_safetensors_input(sd1_folder, neurons, tmp_path):
    single = tmp_path / "model.safetensors"
    save_file(single_file_tensors(small_unet(), ema=True), single)
    for source, output in ((sd1_folder, tmp_path / "out"), (single, tmp_path / "out.safetensors")):
        rows = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
        argument = json.dumps([str(source), str(output), rows, str(neurons)])
        done = subprocess.run([sys.executable, "-c", NO_TORCH, argument], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("heavy: []\n")


def test_inspect_reads_headers_only(model, monkeypatch):
    """A sparse 7 GB file is inspected without reading its data."""
    import struct
    import time

    rows, columns = 2**20, 1792
    header = {"data_offsets": [0, rows * columns * 4], "shape": [rows, columns], "dtype": "F32"}
    text = json.dumps({"encoder.weight": header}).encode()
    path = model / "text_encoder" / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + rows * columns * 4)
    started = time.perf_counter()
    found = surgery.inspect_checkpoint(model)
    assert time.perf_counter() - started < 0.5
    assert next(file.bytes for file in found.files if file.path == "text_encoder/model.safetensors") > 7e9
