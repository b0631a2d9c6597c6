"""Lies against `verify`, and what it must not take for one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import DENOISER, audit_of, rewrite_manifest
from safetensors.torch import load_file

import surgery
from surgery.checkpoint.edit.edit_file import write_edit
from surgery.checkpoint.formats.safetensors_file import read_header
from surgery.errors import UsageError
from surgery.testbed.load import PLANTED_FOLDER

SOURCE_WEIGHTS = PLANTED_FOLDER / DENOISER


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def matched(out: Path, *paths: str):
    """A change of the manifest that makes it agree with the files again."""

    def change(manifest: dict) -> None:
        for entry in [*manifest["files"], *manifest.get("published", {}).get("files", [])]:
            if entry["path"] in paths:
                file = out / entry["path"]
                entry["sha256"], entry["bytes"] = sha256(file), file.stat().st_size

    return change


def assert_caught(out: Path, words: str, **options) -> None:
    found = surgery.verify(out, **options)
    assert not found.ok
    assert any(words in sentence for sentence in found.violations), found.violations


@pytest.mark.parametrize("folder", ["patched", "finished"])
def test_what_patch_and_card_wrote_verifies_and_so_it_does_against_its_source(folder, request, memories):
    out = request.getfixturevalue(folder)
    plan = memories[0].neurons.union(memories[1].neurons)
    found = surgery.verify(out, source=PLANTED_FOLDER, plan=plan)
    assert found.ok and found.against_source, found.violations
    assert found.rows == plan.count
    assert {file.path for file in found.files} == {
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
    }
    assert all(file.sha256 == sha256(out / file.path) for file in found.files)


@pytest.mark.parametrize(
    "path", [DENOISER, "text_encoder/model.safetensors", "unet/config.json", "README.md", "model_index.json"]
)
def test_a_changed_byte(out, path):
    flip(out / path, -2)
    assert_caught(out, f"{path} is not the file that was published")


@pytest.mark.parametrize("path", [DENOISER, "tokenizer/tokenizer.json", "README.md", "surgery-manifest.json"])
def test_a_missing_file(out, path):
    (out / path).unlink()
    if path == "surgery-manifest.json":
        with pytest.raises(UsageError, match=r"holds no surgery-manifest\.json"):
            surgery.verify(out)
    else:
        assert_caught(out, f"{path} is missing")


EXTRA = [
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/deep/er/model.safetensors",
    "model.safetensors",
    "v1-5-pruned.ckpt",
    ".hidden/weights.safetensors",
    ".cache/huggingface/download/weights.safetensors",
    "unet/harmless.txt",
    "LICENSE.safetensors",
]


@pytest.mark.parametrize("path", EXTRA)
def test_a_further_file(out, path):
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SOURCE_WEIGHTS, out / path)
    assert_caught(out, f"{path} is an unverified")


@pytest.mark.parametrize("path", [EXTRA[0], EXTRA[3], "unet/other.safetensors"])
def test_a_further_weight_file_that_the_manifest_was_made_to_list(out, path):
    """Whatever the manifest says: the unpatched copy is found by its rows, or as what patch never writes."""
    shutil.copy(SOURCE_WEIGHTS, out / path)

    def change(manifest: dict) -> None:
        entry = next(entry for entry in manifest["files"] if entry["path"] == DENOISER)
        manifest["files"].append({**entry, "path": path})
        manifest["published"]["files"].append({"path": path, "bytes": 0, "sha256": ""})
        manifest["copies"].append({**manifest["copies"][0], "files": [path]})
        matched(out, path)(manifest)

    rewrite_manifest(out, change)
    found = surgery.verify(out)
    words = ("are not zero", "a file that patch never writes", "patch would not take it")
    assert any(word in sentence for sentence in found.violations for word in words), found.violations


def test_rows_that_are_not_zero_although_the_manifest_matches(out):
    shutil.copy(SOURCE_WEIGHTS, out / DENOISER)
    rewrite_manifest(out, matched(out, DENOISER))
    assert_caught(out, "are not zero")


def test_weights_and_manifest_changed_together_are_found_with_the_source_or_the_audit(out):
    audit = audit_of(out)
    flip(out / DENOISER)
    rewrite_manifest(out, matched(out, DENOISER))
    alone = surgery.verify(out)
    assert alone.ok and any("go unnoticed" in note for note in alone.notes), "as the notes say"
    assert_caught(out, "against the source", source=PLANTED_FOLDER)
    assert_caught(out, "was made on other weights", audit=audit)


def test_a_row_taken_out_of_the_plan_is_found_with_the_plan(out, memories):
    """The memory's row is back, and manifest and card say that it was never to go."""
    from surgery.checkpoint.edit.manifest import neurons_sha256
    from surgery.publish.card import write_card
    from surgery.publish.stage import seal

    layer, rows = next(iter(memories[1].neurons.items()))
    tensor = read_header(out / DENOISER).tensors[f"{layer}.weight"]
    begin, end = tensor.row_range(rows[0])
    content = bytearray((out / DENOISER).read_bytes())
    content[begin:end] = SOURCE_WEIGHTS.read_bytes()[begin:end]
    (out / DENOISER).write_bytes(content)

    def change(manifest: dict) -> None:
        left = {name: [row for row in own if (name, row) != (layer, rows[0])]
                for name, own in manifest["neurons"]["layers"].items()}  # fmt: skip
        neurons = surgery.NeuronSet(left)
        manifest["neurons"] |= {"layers": neurons.as_json(), "count": neurons.count}
        manifest["neurons"]["sha256"] = neurons_sha256(neurons)
        matched(out, DENOISER)(manifest)

    rewrite_manifest(out, change)
    write_card(out)
    seal(out)
    assert surgery.verify(out).ok
    assert_caught(out, "other neurons than the plan", plan=memories[0].neurons.union(memories[1].neurons))


MANIFEST_LIES = {
    "a better verdict": (
        lambda m: m["published"]["audit"].update(verdict="removed", phrase="removed"),
        "README.md does not say what the manifest says",
    ),
    "an open gate": (lambda m: m["published"]["gate"].update(passed=True), "gate is not what its audit says"),
    "a caption beside the fields": (lambda m: m.update(prompt="a caption"), "prompt is no field of it"),
    "a caption in the section": (
        lambda m: m["published"]["prompts"][0].update(prompt="a caption"),
        "published.prompts[].prompt is no field of it",
    ),
    "a caption as a criterion": (
        lambda m: m["published"]["method"].update(localization={"settings": {"criterion": "a caption"}}),
        "no name of a method",
    ),
    "a further field of the method": (
        lambda m: m["published"]["method"].update(localization={"prompt": "x"}),
        "published.method.localization.prompt is no field of it",
    ),
    "rows as text": (lambda m: m["neurons"].update(layers={"x": ["1"]}), "is no list of integer"),
    "fewer rows": (lambda m: m["neurons"].update(count=1), "the count and the sha256"),
    "another format": (lambda m: m.update(format="surgery.manifest/99"), "of the format"),
    "no files": (lambda m: m.pop("files"), "the manifest lacks files"),
    "a file without a hash": (lambda m: m["files"][0].pop("sha256"), "lacks files[].sha256"),
    "no gate": (lambda m: m["published"].pop("gate"), "lacks published.gate"),
}


@pytest.mark.parametrize("name", MANIFEST_LIES)
def test_a_lying_manifest(bare, name):
    surgery.record_audit(bare, audit_of(bare, "hidden, not removed"))
    surgery.write_card(bare)
    change, words = MANIFEST_LIES[name]
    rewrite_manifest(bare, change)
    assert_caught(bare, words)


def test_a_manifest_with_something_between_its_lines(out):
    path = out / "surgery-manifest.json"
    path.write_text(path.read_text().replace('"format"', '"format": "a caption", "format"', 1))
    assert_caught(out, "not written as surgery writes it")


@pytest.mark.parametrize("where", ["file", "folder", "dangling"])
def test_a_symbolic_link_out_of_the_folder(out, tmp_path, where):
    target = tmp_path / "elsewhere"
    if where == "file":
        shutil.move(out / DENOISER, target)
        (out / DENOISER).symlink_to(target)
        assert_caught(out, f"{DENOISER} is a symbolic link")
    elif where == "folder":
        shutil.move(out / "unet", target)
        (out / "unet").symlink_to(target)
        assert_caught(out, "unet is a symbolic link")
    else:
        (out / "unet" / "more.json").symlink_to(target)
        assert_caught(out, "unet/more.json is a symbolic link")


def test_a_pipe_does_not_block(out):
    os.mkfifo(out / "unet" / "pipe.json")
    assert_caught(out, "unet/pipe.json is not a regular file")


def test_what_a_download_leaves_is_no_violation(out):
    (out / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    notes = out / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "README.md.metadata").write_text("0\n1\n2\n")
    assert surgery.verify(out, source=PLANTED_FOLDER).ok


def test_a_published_checkpoint_verifies_from_the_cache_of_the_hub(finished, tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "models--lab--model"
    snapshot = cached / "snapshots" / ("a" * 40)
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    (cached / "blobs").mkdir()
    for path in finished.rglob("*"):
        if path.is_file():
            place = snapshot / path.relative_to(finished)
            place.parent.mkdir(parents=True, exist_ok=True)
            blob = cached / "blobs" / sha256(path)
            shutil.copy(path, blob)
            place.symlink_to(blob)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert surgery.verify("lab/model", source=PLANTED_FOLDER).ok


def test_a_single_file_in_a_folder_of_its_own(tmp_path, memories):
    out = tmp_path / "out"
    out.mkdir()
    source = SOURCE_WEIGHTS
    surgery.patch(source, memories[0].neurons, out / "model.safetensors")
    assert surgery.verify(out / "model.safetensors", source=source).ok
    surgery.record_audit(out, None)
    surgery.write_card(out)
    assert surgery.verify(out, source=source).ok
    assert "library_name" not in (out / "README.md").read_text()
    shutil.copy(source, out / "unpatched.safetensors")
    assert_caught(out, "unpatched.safetensors is an unverified weight file")
    with pytest.raises(UsageError, match="folder of its own"):
        surgery.upload(out / "model.safetensors", "lab/model")


def test_a_large_file_without_a_hash_is_known_by_its_value_layers(bare):
    def change(manifest: dict) -> None:
        next(entry for entry in manifest["files"] if entry["path"] == DENOISER)["sha256"] = None

    rewrite_manifest(bare, change)
    found = surgery.verify(bare)
    assert found.ok and any("only its header and value layers" in note for note in found.notes)
    header = read_header(bare / DENOISER)
    layer = next(name for name in header.tensors if name.endswith("attn2.to_v.weight"))
    flip(bare / DENOISER, header.tensors[layer].begin)
    assert_caught(bare, "value layers are not those that patch wrote")


def test_numbers_that_are_zero_only_to_a_computer_are_not_zero_bytes(out, memories):
    """-0.0 is what multiplying by zero leaves; true zero bytes were promised."""
    layer, rows = next(iter(memories[0].neurons.items()))
    tensor = read_header(out / DENOISER).tensors[f"{layer}.weight"]
    begin, end = tensor.row_range(rows[0])
    content = bytearray((out / DENOISER).read_bytes())
    content[begin:end] = np.full((end - begin) // 2, -0.0, np.float16).tobytes()
    (out / DENOISER).write_bytes(content)
    rewrite_manifest(out, matched(out, DENOISER))
    assert_caught(out, "are not zero")


def test_the_command_exits_0_and_3_and_speaks_json(finished, out, surgery_run):
    status, shown, _ = surgery_run("verify", finished, "--json")
    document = json.loads(shown)
    assert status == 0 and document["ok"] and document["verdict"].startswith("removed")
    flip(out / DENOISER)
    status, shown, _ = surgery_run("verify", out)
    assert status == 3 and "NOT verified" in shown
    status, shown, _ = surgery_run("verify", out, "--json")
    assert status == 3 and not json.loads(shown)["ok"]
    status, _, complaint = surgery_run("verify", PLANTED_FOLDER)
    assert status == 2 and "holds no surgery-manifest.json" in complaint


def test_verify_imports_no_torch(finished):
    code = (
        "import sys, surgery\n"
        f"assert surgery.verify({str(finished)!r}).ok\n"
        "assert not {'torch', 'diffusers', 'huggingface_hub'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_hardened_checkpoint_verifies_with_its_edit_alone(memories, tmp_path):
    """Trained tensors are proved by the edit that they came from, and by nothing less."""
    neurons = memories[0].neurons
    before = load_file(PLANTED_FOLDER / DENOISER)
    trained = {name: 1.01 * value.float().numpy() for name, value in before.items()}
    for layer, rows in neurons.items():
        trained[f"{layer}.weight"][list(rows)] = 0
    write_edit(tmp_path / "edit", neurons, trained)
    write_edit(tmp_path / "other", neurons, {name: 1.01 * value for name, value in trained.items()})
    surgery.patch(PLANTED_FOLDER, tmp_path / "edit", tmp_path / "out")
    checked = partial(surgery.verify, tmp_path / "out")
    assert checked().ok and checked(source=PLANTED_FOLDER, plan=tmp_path / "edit").ok
    assert any("give the edit" in one for one in checked(source=PLANTED_FOLDER).violations)
    assert not checked(source=PLANTED_FOLDER, plan=neurons).ok
    assert not checked(source=PLANTED_FOLDER, plan=tmp_path / "other").ok
