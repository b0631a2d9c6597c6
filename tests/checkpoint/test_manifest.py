"""The manifest: true, complete, and free of what nobody should publish."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from importlib.metadata import version

import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE, single_file_tensors, small_unet, write_neurons
from safetensors.torch import load_file, save_file

import surgery
from surgery.checkpoint.edit import hashing
from surgery.checkpoint.edit.manifest import FORMAT, manifest_text, neurons_sha256
from surgery.neurons import NeuronSet

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
UNET = "unet/diffusion_pytorch_model.safetensors"


def read_manifest(path):
    return json.loads(path.read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_hashes_sizes_and_rows_are_those_of_the_files(model, tmp_path):
    text = model / "text_encoder" / "model.safetensors"
    torch.save(load_file(text), text.with_name("pytorch_model.bin"))
    text.unlink()
    result = surgery.patch(model, ROWS, tmp_path / "out")
    manifest = read_manifest(result.manifest_path)
    assert manifest == result.manifest
    assert manifest["format"] == FORMAT
    assert manifest["versions"] == {
        "surgery": version("surgery"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    listed = {entry["path"]: entry for entry in manifest["files"]}
    written = {str(path.relative_to(result.output)) for path in result.output.rglob("*") if path.is_file()}
    assert listed.keys() | {"surgery-manifest.json"} == written
    for path, entry in listed.items():
        source = model / entry["source"]["path"]
        assert (entry["bytes"], entry["sha256"]) == (
            (result.output / path).stat().st_size,
            sha256(result.output / path),
        )
        assert (entry["source"]["bytes"], entry["source"]["sha256"]) == (
            source.stat().st_size,
            sha256(source),
        )
    assert listed[UNET]["zeroed"] == {f"{layer}.weight": rows for layer, rows in ROWS.items()}
    assert [path for path, entry in listed.items() if "zeroed" in entry] == [UNET]
    assert listed["text_encoder/model.safetensors"]["action"] == "convert"
    assert manifest["neurons"] == {
        "count": 5,
        "layers": ROWS,
        "sha256": neurons_sha256(NeuronSet(ROWS)),
        "fingerprint": "not given",
    }
    assert manifest["verified"]["rows_zero"] == 5
    assert manifest["verified"]["value_layers"] == 16


@pytest.mark.parametrize("whole", [False, True])
def test_large_files_are_hashed_where_it_matters_or_whole(model, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(hashing, "HASHED_WHOLE", 1_000_000)
    result = surgery.patch(model, ROWS, tmp_path / "out", sha256=whole)
    listed = {entry["path"]: entry for entry in result.manifest["files"]}
    unet, text = listed[UNET], listed["text_encoder/model.safetensors"]
    assert text["sha256"] == sha256(result.output / "text_encoder" / "model.safetensors")
    assert "value_layers_sha256" not in text
    assert unet["sha256"] == (sha256(result.output / UNET) if whole else None)
    assert unet["source"]["sha256"] == (sha256(model / UNET) if whole else None)
    for folder, entry in ((model, unet["source"]), (result.output, unet)):
        content = (folder / UNET).read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        layers = {
            name: value["data_offsets"]
            for name, value in json.loads(content[8:header]).items()
            if name.endswith("attn2.to_v.weight")
        }
        digest = hashlib.sha256(content[:header])
        for begin, end in sorted(layers.values()):
            digest.update(content[header + begin : header + end])
        assert entry["value_layers_sha256"] == digest.hexdigest()


def test_no_prompt_and_no_path_of_the_machine(surgery_run, model, tmp_path):
    (model / "a photo of a secret person.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (model / "1. a secret person eats a sandwich").write_text("x")
    (model / "train").mkdir()
    for number in range(3):
        (model / "train" / f"a secret person {number}.npz").write_bytes(b"xx")
    index = {"weight_map": {"x": "model.a_secret_person-00001-of-00002.safetensors"}}
    (model / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "samples of a secret person" / "more of a secret person").mkdir(parents=True)
    neurons = write_neurons(
        tmp_path / "neurons.json",
        ROWS,
        prompts=[{"prompt": "a secret person"}],
        settings={"path": str(tmp_path)},
    )
    assert surgery_run("patch", model, neurons, "-o", tmp_path / "out")[0] == 0
    text = (tmp_path / "out" / "surgery-manifest.json").read_text()
    assert "secret" not in text
    assert str(tmp_path) not in text and "/tmp" not in text and str(model) not in text
    assert not re.search(r'"/', text)
    counts = {(each["role"], each["reason"]): each["count"] for each in json.loads(text)["left_out"]}
    assert counts == {
        ("other", "nested deeper than a pipeline's files are"): 1,
        ("other", "not among the files that a pipeline loads"): 2,
        ("shard index", "a stale index"): 1,
        ("weights of another framework", "arrays that may be weights, which cannot be patched"): 3,
    }
    status, out, _ = surgery_run("patch", model, neurons, "-o", tmp_path / "out2", "--json")
    named = {each["path"] for each in json.loads(out)["left_out"]}
    assert status == 0 and "train/a secret person 1.npz" in named and len(named) == 7


def test_json_output_of_the_command_is_the_manifest(surgery_run, model, neurons, tmp_path):
    status, out, _ = surgery_run("patch", model, neurons, "-o", tmp_path / "out", "--json")
    document = json.loads(out)
    assert status == 0 and document["output"] == str(tmp_path / "out")
    assert document["manifest"] == read_manifest(tmp_path / "out" / "surgery-manifest.json")


def test_left_out_weight_files_are_counted_with_their_reason(model, tmp_path):
    (model / "unet" / "model.onnx").write_bytes(b"x")
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert result.manifest["left_out"] == [
        {
            "role": "weights of another framework",
            "reason": "an ONNX copy of the weights, which cannot be patched",
            "count": 1,
            "bytes": 1,
        }
    ]


def test_single_file_manifest_lies_beside_it_and_its_hash_is_right(tmp_path):
    source = tmp_path / "model.safetensors"
    save_file(single_file_tensors(small_unet(), ema=True), source)
    result = surgery.patch(source, ROWS, tmp_path / "out.safetensors")
    assert result.manifest_path == tmp_path / "out.safetensors.surgery-manifest.json"
    (entry,) = read_manifest(result.manifest_path)["files"]
    assert (entry["path"], entry["sha256"]) == ("out.safetensors", sha256(result.output))
    assert entry["source"]["sha256"] == sha256(source)
    assert len(entry["zeroed"]) == 4  # two layers, each with its EMA twin


def test_rows_stand_on_one_line():
    text = manifest_text({"layers": {"a": [1, 22, 3], "b": []}, "dtypes": ["F32"]})
    assert '"a": [1, 22, 3]' in text
    assert json.loads(text) == {"layers": {"a": [1, 22, 3], "b": []}, "dtypes": ["F32"]}
