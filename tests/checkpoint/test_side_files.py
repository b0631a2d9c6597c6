"""Licenses, tokenizers and other files beside the weights: a strange one is left out, not the whole model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from checkpoint_builders import DOWN, MIDDLE
from safetensors.torch import load_file

import surgery
from surgery.checkpoint.survey import side_content

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
UNET = "unet/diffusion_pytorch_model.safetensors"
LICENSE = "Permission is granted, à tous, to do as they like.\n" * 20


def sentencepiece(pieces=("<unk>", "a", "b"), rest=b""):
    messages = [b"\n" + bytes([len(piece)]) + piece.encode() + b"\x15\x00\x00\x80\x3f" for piece in pieces]
    return b"".join(b"\n" + bytes([len(message)]) + message for message in messages) + rest


CARRIED = {
    "latin-1": ("LICENSE", LICENSE.encode("latin-1")),
    "utf-16": ("LICENSE", LICENSE.encode("utf-16")),
    "utf-8 with a mark": ("unet/LICENSE.txt", LICENSE.encode("utf-8-sig")),
    "tiktoken": ("tokenizer/tokenizer.model", b"IQ== 0\nIg== 1\nIw== 2\n"),
    "sentencepiece": ("tokenizer/spiece.model", sentencepiece(rest=b"\x12\x03\x08\x01\x10")),
    "no merges at all": ("tokenizer/merges.txt", b""),
    "control characters among many tokens": ("tokenizer/vocab.txt", b"[PAD]\n\x01\n" + b"word\n" * 100),
}
LEFT_OUT = {
    "pdf": ("LICENSE.pdf", b"%PDF-1.7\n" + bytes(range(256)), "no plain text"),
    "docx": ("NOTICE.docx", b"PK\x03\x04" + bytes(range(256)), "no plain text"),
    "half precision after a utf-16 mark": (
        "LICENSE",
        b"\xff\xfe" + np.linspace(0.01, 0.02, 4000).astype("<f2").tobytes(),
        "no plain text",
    ),
    "weights after a piece": (
        "tokenizer/spiece.model",
        sentencepiece(rest=np.ones(9, "<f4").tobytes()),
        "no tokenizer model",
    ),
    "weights as one field": (
        "tokenizer/spiece.model",
        sentencepiece(rest=b"\x1a\x80\x80\x80\x02" + bytes(4 << 20)),
        "no tokenizer model",
    ),
}


def assert_patched(model, tmp_path):
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert surgery.diff(model, result.output, plan=ROWS).as_planned
    return result


@pytest.mark.parametrize("case", CARRIED)
def test_unusual_text_is_carried_over(model, tmp_path, case):
    name, content = CARRIED[case]
    (model / name).write_bytes(content)
    result = assert_patched(model, tmp_path)
    assert (result.output / name).read_bytes() == content


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_could_be_anything_is_left_out_with_a_reason(model, tmp_path, case):
    name, content, reason = LEFT_OUT[case]
    (model / name).write_bytes(content)
    result = assert_patched(model, tmp_path)
    assert not (result.output / name).exists()
    (found,) = [file.reason for file in result.left_out if file.path == name]
    assert reason in found


def test_licenses_that_differ_only_in_case_are_one_on_some_disks(model, tmp_path):
    (model / "LICENSE").write_text("one")
    (model / "license").write_text("other")
    result = assert_patched(model, tmp_path)
    assert (result.output / "LICENSE").read_text() == "one"
    assert [file.path for file in result.left_out] == ["license"]


def test_large_side_files_are_carried_over_up_to_a_limit(model, tmp_path, monkeypatch):
    (model / "tokenizer" / "tokenizer_config.json").write_text("{}" + " " * (36 << 20))
    result = assert_patched(model, tmp_path)
    assert (result.output / "tokenizer" / "tokenizer_config.json").stat().st_size == 2 + (36 << 20)
    monkeypatch.setattr(side_content, "LARGEST_SIDE_FILE", 30 << 20)
    result = surgery.patch(model, ROWS, tmp_path / "out2")
    assert [file.reason for file in result.left_out] == ["too large for a configuration"]


def test_one_component_of_the_hub_cache_is_a_checkpoint_too(sd1_folder, tmp_path):
    from diffusers import UNet2DConditionModel

    blobs = tmp_path / "models--someone--small" / "blobs"
    unet = blobs.parent / "snapshots" / ("a" * 40) / "unet"
    blobs.mkdir(parents=True)
    unet.mkdir(parents=True)
    for place, path in enumerate((sd1_folder / "unet").iterdir()):
        shutil.copy(path, blobs / f"{place:064d}")
        (unet / path.name).symlink_to(f"../../../blobs/{place:064d}")
    result = assert_patched(unet, tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(result.output).state_dict()
    assert loaded[f"{MIDDLE}.weight"][7].count_nonzero() == 0
    assert result.manifest["source"]["name"] == "someone/small/unet"


def test_inspect_says_the_same(model, surgery_run):
    (model / "LICENSE.pdf").write_bytes(b"%PDF-1.7\n" + bytes(range(256)))
    files = json.loads(surgery_run("inspect", model, "--json")[1])["files"]
    (reason,) = [file["reason"] for file in files if file["path"] == "LICENSE.pdf"]
    assert "no plain text" in reason


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer/spiece.model", "tokenizer/tokenizer.model"])
def test_weights_under_a_side_files_name_stay_behind(model, tmp_path, name):
    shutil.copy(model / UNET, model / name)
    row = load_file(model / UNET)[f"{MIDDLE}.weight"][7].numpy().tobytes()
    result = assert_patched(model, tmp_path)
    assert not any(row in path.read_bytes() for path in result.output.rglob("*") if path.is_file())


def test_a_folder_linked_in_from_outside_is_not_walked(model, tmp_path):
    """Not even the names of somebody's files are told."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a photo of somebody at home.npz").write_bytes(b"x")
    (model / "train").symlink_to(tmp_path / "home")
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert [(file.path, file.reason) for file in result.left_out] == [
        ("train/", "a symbolic link to a folder outside the checkpoint")
    ]
    assert "somebody" not in json.dumps(result.manifest)
