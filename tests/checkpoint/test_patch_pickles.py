"""Torch pickles: converted, never written, never run."""

from __future__ import annotations

import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE, single_file_tensors, small_unet
from safetensors.torch import load_file

import surgery
from surgery.errors import UsageError

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
MIDDLE_KEY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"


class Hostile:
    """Pickles to a program that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class ModelCheckpoint:
    """Stands for a training framework's class, named in old checkpoints."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.fixture(scope="module")
def tensors():
    return single_file_tensors(small_unet(), ema=True)


@pytest.mark.parametrize("nesting", [0, 1, 3])
@pytest.mark.parametrize("new_format", [True, False])
def test_checkpoint_becomes_safetensors(surgery_run, tmp_path, tensors, neurons, nesting, new_format):
    document = dict(tensors) | {"half": torch.ones(3, dtype=torch.float16), "view": torch.ones(4, 4).t()[1:]}
    expected = dict(document)
    for _ in range(nesting):
        document = {
            "state_dict": document,
            "global_step": 3,
            "optimizer_states": [{"exp_avg": torch.ones(2)}],
        }
    torch.save(document, tmp_path / "model.ckpt", _use_new_zipfile_serialization=new_format)
    status, _, err = surgery_run(
        "patch", tmp_path / "model.ckpt", neurons, "-o", tmp_path / "out.safetensors"
    )
    assert status == 0
    assert ("not global_step, optimizer_states\n" in err) == (nesting > 0)  # said, not silently dropped
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == expected.keys()
    for name, tensor in written.items():
        zeroed = [
            index for index in range(len(tensor)) if not tensor[index].any() and expected[name][index].any()
        ]
        assert zeroed == ([3, 7, 8] if "middle" in name and "attn2" in name and "to_v" in name else zeroed)
        kept = [index for index in range(len(tensor)) if index not in zeroed]
        assert tensor[kept].equal(expected[name][kept])
    assert written[MIDDLE_KEY][[3, 7, 8]].count_nonzero() == 0
    assert surgery.diff(tmp_path / "model.ckpt", tmp_path / "out.safetensors", plan=neurons).as_planned


def test_numpy_scalars_and_framework_class_names_are_no_obstacle(tmp_path, tensors, monkeypatch):
    parents = ["pytorch_lightning", "pytorch_lightning.callbacks", ModelCheckpoint.__module__]
    for name in parents:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[ModelCheckpoint.__module__].ModelCheckpoint = ModelCheckpoint
    document = {
        "state_dict": tensors,
        "callbacks": {ModelCheckpoint: {"best_model_score": np.float32(0.5), "step": np.int64(3)}},
    }
    torch.save(document, tmp_path / "model.ckpt")
    for name in parents:
        monkeypatch.delitem(sys.modules, name)
    result = surgery.patch(tmp_path / "model.ckpt", ROWS, tmp_path / "out.safetensors")
    assert load_file(result.output).keys() == tensors.keys()


@pytest.mark.parametrize("new_format", [True, False])
def test_hostile_pickle_is_refused_and_nothing_runs(surgery_run, tmp_path, tensors, neurons, new_format):
    document = {"state_dict": tensors, "extra": Hostile(tmp_path / "ran")}
    torch.save(document, tmp_path / "model.ckpt", _use_new_zipfile_serialization=new_format)
    for command in (
        ["patch", tmp_path / "model.ckpt", neurons, "-o", tmp_path / "out.safetensors"],
        ["inspect", tmp_path / "model.ckpt"],
        ["diff", tmp_path / "model.ckpt", tmp_path / "model.ckpt"],
    ):
        status, _, err = surgery_run(*command)
        assert not (tmp_path / "ran").exists()
        if command[0] == "inspect":
            assert status == 0  # pickles are not opened
        else:
            assert status == 2
            assert "would run code" in err and "system" in err and err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_raw_pickle_is_refused_and_nothing_runs(surgery_run, tmp_path, neurons):
    (tmp_path / "model.bin").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    status, _, err = surgery_run("patch", tmp_path / "model.bin", neurons, "-o", tmp_path / "out.safetensors")
    assert status == 2 and err.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_old_torch_is_not_trusted_with_pickles(tmp_path, tensors, monkeypatch):
    torch.save(tensors, tmp_path / "model.ckpt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(UsageError, match=r"torch 2\.5\.1\+cpu reads pickles unsafely"):
        surgery.patch(tmp_path / "model.ckpt", ROWS, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", b"PK\x03\x04broken", pickle.dumps([1, 2]), pickle.dumps({})]
)
def test_broken_pickles_are_refused(tmp_path, content):
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.ckpt"):
        surgery.patch(tmp_path / "model.ckpt", ROWS, tmp_path / "out.safetensors")


def test_sharded_pickles_get_a_new_index(model, tmp_path):
    """diffusers still reads sharded .bin files; the output's index must name the safetensors shards."""
    import json

    from diffusers import UNet2DConditionModel

    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    weights.unlink()
    names = sorted(state)
    halves = {1: names[: len(names) // 2], 2: names[len(names) // 2 :]}
    weight_map = {}
    for number, members in halves.items():
        shard = f"diffusion_pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: state[name] for name in members}, model / "unet" / shard)
        weight_map |= dict.fromkeys(members, shard)
    index = model / "unet" / "diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))

    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert not list(result.output.rglob("*.bin*"))
    loaded = UNet2DConditionModel.from_pretrained(result.output / "unet").state_dict()
    for name, tensor in state.items():
        expected = tensor.clone()
        expected[ROWS.get(name.removesuffix(".weight"), [])] = 0
        assert loaded[name].equal(expected)
    assert surgery.diff(model, result.output, plan=ROWS).as_planned
