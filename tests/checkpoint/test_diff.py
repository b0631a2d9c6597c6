"""Diff: what it reports, across layouts and dtypes, and that `--plan` proves what it says."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE, single_file_tensors, small_unet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import surgery
from surgery.neurons import NeuronSet

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
UNET = "unet/diffusion_pytorch_model.safetensors"
KEY = f"{MIDDLE}.weight"


@pytest.fixture(scope="module")
def patched_once(sd1_folder, tmp_path_factory):
    return surgery.patch(sd1_folder, ROWS, tmp_path_factory.mktemp("patched") / "out").output


@pytest.fixture
def patched(patched_once, tmp_path):
    return shutil.copytree(patched_once, tmp_path / "patched")


def edit(folder, change, name=UNET):
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, metadata={"format": "pt"})


def test_identical_folders(surgery_run, sd1_folder, model):
    status, out, err = surgery_run("diff", sd1_folder, model)
    assert (status, err) == (0, "") and out.endswith("identical\n")
    found = surgery.diff(sd1_folder, model)
    assert found.identical and found.as_planned is None
    assert sum(each.compared for each in found.sets) > 800


def test_patched_folder_is_described_and_proven(surgery_run, sd1_folder, patched, neurons):
    status, out, _ = surgery_run("diff", sd1_folder, patched, "--plan", neurons)
    assert status == 0
    assert "3 of 64 rows  zero in B: 3, 7-8" in out
    assert "file added: surgery-manifest.json" in out
    assert "as planned" in out
    document = json.loads(surgery_run("diff", sd1_folder, patched, "--json")[1])
    assert document["as_planned"] is None and document["identical"] is False
    (unet,) = [each for each in document["sets"] if each["a"] == "unet"]
    changed = {tensor["name"]: (tensor["rows"], tensor["all_zero"]) for tensor in unet["changed"]}
    assert changed == {f"{layer}.weight": (rows, True) for layer, rows in ROWS.items()}
    assert document["files"] == [
        {
            "path": "surgery-manifest.json",
            "kind": "added",
            "note": "the manifest of an earlier patch; a new one is written",
        }
    ]


def set_value(key, row, value):
    return lambda folder: edit(folder, lambda tensors: tensors[key][row].fill_(value))


def nudge(key):
    def change(tensors):
        tensors[key].view(-1)[-1] += 1e-3

    return lambda folder: edit(folder, change)


VIOLATIONS = {
    "planned row not zero": (set_value(KEY, 3, 0.5), "row 3 of .* is not zero"),
    "unplanned row zero": (set_value(KEY, 4, 0), "differs in 1 unplanned rows 4"),
    "negative zero": (set_value(KEY, 3, -0.0), "row 3 of .* is not zero"),
    "another layer": (
        nudge("up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.weight"),
        "unplanned rows 63",
    ),
    "another tensor": (nudge("conv_in.weight"), "conv_in.weight differs"),
    "another component": (
        lambda folder: edit(
            folder,
            lambda tensors: tensors["decoder.conv_in.bias"].add_(1),
            "vae/diffusion_pytorch_model.safetensors",
        ),
        "vae/.*: decoder.conv_in.bias differs",
    ),
    "a tensor more": (
        lambda folder: edit(folder, lambda t: t.__setitem__("more", torch.ones(1))),
        "more was added",
    ),
    "a tensor less": (
        lambda folder: edit(folder, lambda t: t.pop("conv_in.bias")),
        "conv_in.bias was removed",
    ),
    "another dtype": (
        lambda folder: edit(folder, lambda t: t.__setitem__("conv_in.bias", t["conv_in.bias"].half())),
        "conv_in.bias has another shape or dtype",
    ),
    "metadata": (
        lambda folder: save_file(
            load_file(folder / UNET), folder / UNET, metadata={"format": "pt", "x": "y"}
        ),
        "its metadata differs",
    ),
    "a configuration": (
        lambda folder: (folder / "unet" / "config.json").write_text(
            (folder / "unet" / "config.json").read_text() + " "
        ),
        "unet/config.json: is not the source's file",
    ),
    "a file less": (lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(), "B lacks tokenizer"),
    "a file more": (lambda folder: (folder / "LICENSE").write_text("free"), "B adds LICENSE"),
    "a copy more": (
        lambda folder: shutil.copy(folder / UNET, folder / UNET.replace(".saf", ".fp16.saf")),
        r"B adds unet/diffusion_pytorch_model.fp16.safetensors",
    ),
    "a pickle more": (
        lambda folder: torch.save(load_file(folder / UNET), folder / "unet" / "diffusion_pytorch_model.bin"),
        "B holds unet/diffusion_pytorch_model.bin, which could not be compared",
    ),
    "a hidden folder": (
        lambda folder: shutil.copytree(folder / "unet", folder / ".git"),
        "B holds .git/, which could not be compared",
    ),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_plan_catches(case, surgery_run, sd1_folder, patched, neurons):
    change, sentence = VIOLATIONS[case]
    change(patched)
    status, out, _ = surgery_run("diff", sd1_folder, patched, "--plan", neurons)
    assert status == 3
    verdict = out[out.index("NOT as planned:") :]
    assert re.search(sentence, verdict), verdict


def test_left_over_copy_for_another_framework_breaks_the_proof(model, patched, surgery_run, neurons):
    """In source and result alike, and byte-equal: which is exactly what must not be."""
    for folder in (model, patched):
        (folder / "unet" / "diffusion_flax_model.msgpack").write_bytes(b"\x81\xa6params")
    assert not any("msgpack" in file.path for file in surgery.diff(model, patched).files)
    status, out, _ = surgery_run("diff", model, patched, "--plan", neurons)
    assert status == 3 and "diffusion_flax_model.msgpack, which could not be compared (a Flax copy" in out


def test_row_that_was_zero_before_needs_no_difference(model, tmp_path):
    edit(model, lambda tensors: tensors[KEY][3].fill_(0))
    output = surgery.patch(model, ROWS, tmp_path / "out").output
    found = surgery.diff(model, output, plan=ROWS)
    assert found.as_planned
    (middle,) = [tensor for each in found.sets for tensor in each.changed if tensor.name == KEY]
    assert middle.rows == (7, 8)


def test_half_precision_twin_needs_a_tolerance(sd1_pipeline, sd1_folder, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(sd1_folder, half)
    for name in (UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        tensors = {key: value.half() for key, value in load_file(half / name).items()}
        (half / name).unlink()
        save_file(tensors, half / name.replace(".saf", ".fp16.saf"), metadata={"format": "pt"})
    strict = surgery.diff(sd1_folder, half)
    assert all(len(each.changed) == each.compared for each in strict.sets)
    assert [each.other_label for each in strict.sets if each.label == "unet"] == ["unet (fp16)"]
    loose = surgery.diff(sd1_folder, half, tolerance=1e-3)
    assert not any(each.changed for each in loose.sets)
    patched = surgery.patch(half, ROWS, tmp_path / "out").output
    across = surgery.diff(sd1_folder, patched, tolerance=1e-3)
    changed = {tensor.name: tensor.rows for each in across.sets for tensor in each.changed}
    assert changed == {f"{layer}.weight": tuple(rows) for layer, rows in ROWS.items()}


def test_shards_compare_equal_to_the_whole(sd1_pipeline, sd1_folder, model):
    (model / UNET).unlink()
    sd1_pipeline.unet.save_pretrained(model / "unet", max_shard_size="2MB")
    found = surgery.diff(sd1_folder, model)
    assert not any(each.changed or each.added or each.removed for each in found.sets)
    assert {file.kind for file in found.files} == {
        "added",
        "removed",
    }  # as files they do differ, and it says so


def test_single_file_that_adds_an_ema_twin(tmp_path):
    unet = small_unet()
    save_file(single_file_tensors(unet), tmp_path / "a.safetensors")
    save_file(single_file_tensors(unet, ema=True), tmp_path / "b.safetensors")
    found = surgery.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    (each,) = found.sets
    assert len(each.added) == each.compared and not each.changed
    unet.save_pretrained(tmp_path / "folder")
    whole = tmp_path / "folder" / "diffusion_pytorch_model.safetensors"
    across = surgery.diff(whole, tmp_path / "b.safetensors")
    assert [each.label for each in across.sets] == ["unet"] and across.only_b == ("unet (EMA)",)
    assert not across.sets[0].changed


def test_table_stays_readable_with_seventy_layers(surgery_run, tmp_path):
    unet = small_unet("SDXL base")
    layers = [name for name, _ in unet.named_modules() if name.endswith("attn2.to_v")]
    save_file(single_file_tensors(unet), tmp_path / "a.safetensors")
    plan = {layer: [1, 2, 3, 9] for layer in layers}
    surgery.patch(tmp_path / "a.safetensors", plan, tmp_path / "b.safetensors")
    _, out, _ = surgery_run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    lines = out.splitlines()
    assert len(lines) == len(layers) + 2
    assert max(map(len, lines)) < 140
    assert sum("zero in B: 1-3, 9" in line for line in lines) == len(layers)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_proof_accepts_the_plan_and_nothing_near_it(data, sd1_folder, patched_once, tmp_path_factory):
    """Any one bit flipped anywhere in the patched weights breaks the proof."""
    folder = tmp_path_factory.mktemp("flipped") / "out"
    shutil.copytree(patched_once, folder)
    content = bytearray((folder / UNET).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(header, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / UNET).write_bytes(content)
    assert surgery.diff(sd1_folder, folder, plan=NeuronSet(ROWS)).as_planned is False
    shutil.rmtree(folder)
