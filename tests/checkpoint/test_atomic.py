"""Absent or whole: patch is killed, the disk fails, the verification finds damage; nothing is left."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_builders import DOWN, MIDDLE
from safetensors.torch import load_file

import surgery
from surgery.checkpoint.edit import renames, staging, verify, writing
from surgery.checkpoint.formats import kernel_copy
from surgery.errors import GateError, SurgeryError

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
UNET = "unet/diffusion_pytorch_model.safetensors"

# A child is forked for every kill, so that the kills fall into the work and not into imports.
KILLER = """
import hashlib, json, os, pathlib, signal, sys, time
from surgery import patch
source, output, rows, repeats, mode = json.loads(sys.argv[1])
output = pathlib.Path(output)

def work():
    patch(source, rows, output, force=True)

def content(path):
    if path.is_file():
        return path.read_bytes().hex()
    files = filter(pathlib.Path.is_file, path.rglob("*"))
    return {str(each.relative_to(path)): each.read_bytes().hex() for each in files}

started = time.perf_counter(); work(); duration = time.perf_counter() - started
new = content(output)
beside = output.with_name(output.name + ".surgery-manifest.json")
if mode.startswith("replace"):
    patch(source, {next(iter(rows)): [1]}, output, force=True)
    old = content(output)
    keep = output.with_name("old")
    os.rename(output, keep)
    if keep.is_file():
        kept = beside.read_bytes()
states = {"absent": 0, "whole": 0, "old": 0, "in part": 0, "interrupted": 0}
for number in range(repeats):
    import shutil
    for left in (output,):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    if mode.startswith("replace"):
        shutil.copytree(keep, output) if keep.is_dir() else shutil.copy(keep, output)
        if keep.is_file():
            beside.write_bytes(kept)
    else:
        beside.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(duration * 1.3 * number / repeats)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if any(each.name.startswith(f".{output.name}.surgery-") for each in output.parent.iterdir()):
        states["interrupted"] += 1
    if beside.exists():
        (described,) = json.loads(beside.read_bytes())["files"]
        assert described["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    if not output.exists():
        states["absent"] += 1
    elif content(output) == new:
        states["whole"] += 1
    elif mode.startswith("replace") and content(output) == old:
        states["old"] += 1
    else:
        states["in part"] += 1
work()
states["left over"] = sum(each.name.startswith(".") for each in output.parent.iterdir())
print(json.dumps(states))
"""


@pytest.mark.parametrize(
    ("mode", "repeats"), [("folder", 60), ("replace", 30), ("file", 30), ("replace file", 30)]
)
def test_killed_at_any_moment_the_output_is_absent_or_whole(sd1_folder, tmp_path, mode, repeats):
    source = sd1_folder / UNET if "file" in mode else sd1_folder
    output = tmp_path / "place" / ("out.safetensors" if "file" in mode else "out")
    output.parent.mkdir()
    argument = json.dumps([str(source), str(output), ROWS, repeats, mode])
    done = subprocess.run(
        [sys.executable, "-c", KILLER, argument], capture_output=True, text=True, check=True
    )
    states = json.loads(done.stdout)
    assert states["in part"] == 0
    assert states["interrupted"] >= 5  # the kills did fall into the work
    assert states["absent"] == 0 if mode.startswith("replace") else states["absent"] >= 5
    assert states["absent"] + states["whole"] + states["old"] == repeats
    assert states["left over"] == 0  # the next run removed what the killed ones left


def nothing_left(tmp_path: Path) -> bool:
    return {path.name for path in tmp_path.iterdir()} == {"neurons.json"}


def fail_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("module", "function", "number", "message"),
    [
        (kernel_copy, "copy_into", errno.ENOSPC, "No space left on device); free some space"),
        (os, "fsync", errno.EIO, "Input/output error"),
        (renames, "_rename", errno.EPERM, "Operation not permitted"),
        (os, "pwrite", errno.EIO, "Input/output error"),
    ],
)
def test_failing_disk_is_one_clear_line(
    surgery_run, sd1_folder, neurons, tmp_path, monkeypatch, module, function, number, message
):
    monkeypatch.setattr(module, function, fail_with(number))
    status, out, err = surgery_run("patch", sd1_folder, neurons, "-o", tmp_path / "out")
    assert (status, out) == (1, "")
    assert message in err and err.count("\n") == 1
    assert nothing_left(tmp_path)


def test_source_that_changes_meanwhile_is_noticed(model, tmp_path, monkeypatch):
    copy = kernel_copy.copy_into

    def copy_and_touch(source, *rest):
        done = copy(source, *rest)
        os.utime(source)
        return done

    monkeypatch.setattr(kernel_copy, "copy_into", copy_and_touch)
    with pytest.raises(SurgeryError, match="changed while it was read"):
        surgery.patch(model, ROWS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def forget_rows(descriptor, task):
    del descriptor, task


def zero_too_much(descriptor, task):
    for start, end in task.edits.ranges:
        os.pwrite(descriptor, bytes(end - start + 4), start)


def touch_header(descriptor, task):
    for start, end in task.edits.ranges:
        os.pwrite(descriptor, bytes(end - start), start)
    if task.edits:
        os.pwrite(descriptor, b" ", 8 + 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(forget_rows, "is not zero"), (zero_too_much, "differs in 1 unplanned rows"), (touch_header, "header")],
)
def test_gate_catches_a_wrong_edit(surgery_run, sd1_folder, neurons, tmp_path, monkeypatch, damage, message):
    monkeypatch.setattr(writing, "_write_edits", damage)
    status, out, err = surgery_run("patch", sd1_folder, neurons, "-o", tmp_path / "out")
    assert (status, out) == (3, "")
    assert message in err and err.count("\n") == 1
    assert nothing_left(tmp_path)


def test_gate_catches_a_file_that_was_not_planned(surgery_run, sd1_folder, neurons, tmp_path, monkeypatch):
    write = writing.write_file

    def write_more(task, destination, advance):
        write(task, destination, advance)
        if destination.name == "diffusion_pytorch_model.safetensors":
            shutil.copy(sd1_folder / UNET, destination.with_name("more.safetensors"))

    monkeypatch.setattr("surgery.checkpoint.patch.write_file", write_more)
    status, _, err = surgery_run("patch", sd1_folder, neurons, "-o", tmp_path / "out")
    assert status == 3 and "exactly the planned files" in err
    assert nothing_left(tmp_path)


def test_gate_catches_a_value_layer_that_was_not_verified(sd1_folder, tmp_path, monkeypatch):
    """If the planner ever overlooked a copy, the scan of the output would still find its value layers."""
    plan_copies = verify.verify_output

    def blind(root, plan):
        import dataclasses

        return plan_copies(root, dataclasses.replace(plan, copies=()))

    monkeypatch.setattr("surgery.checkpoint.patch.verify_output", blind)
    with pytest.raises(GateError, match="looks like a value layer, and no copy of the denoiser has it"):
        surgery.patch(sd1_folder, ROWS, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_force_replaces_and_leaves_nothing_of_the_old_output(surgery_run, sd1_folder, neurons, tmp_path):
    words = ("patch", sd1_folder, neurons, "-o", tmp_path / "out")
    assert surgery_run(*words)[0] == 0
    (tmp_path / "out" / "old-file").write_text("old")
    status, _, err = surgery_run(*words)
    assert status == 2 and "exists; choose another name, or replace it with --force" in err
    assert surgery_run(*words, "--force")[0] == 0
    assert not (tmp_path / "out" / "old-file").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["neurons.json", "out"]


@pytest.mark.parametrize("mode", ["folder", "file"])
def test_without_renameat2_replacing_still_works(sd1_folder, tmp_path, monkeypatch, mode):
    monkeypatch.setattr(renames, "_rename", lambda *_: False)
    source, output = (
        (sd1_folder, tmp_path / "out")
        if mode == "folder"
        else (sd1_folder / UNET, tmp_path / "o.safetensors")
    )
    surgery.patch(source, {MIDDLE: [1]}, output)
    surgery.patch(source, ROWS, output, force=True)
    assert surgery.diff(source, output, plan=ROWS).as_planned
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("missing", [["_copy_file_range"], ["_copy_file_range", "_sendfile"]])
@pytest.mark.parametrize("how", ["raises", "answers 0"])
def test_copies_are_the_same_without_kernel_help(sd1_folder, tmp_path, monkeypatch, missing, how):
    for name in missing:
        replacement = fail_with(errno.EXDEV) if how == "raises" else lambda *_: 0
        monkeypatch.setattr(kernel_copy, name, replacement)
    result = surgery.patch(sd1_folder, ROWS, tmp_path / "out")
    assert surgery.diff(sd1_folder, result.output, plan=ROWS).as_planned
    assert load_file(result.output / UNET)[f"{MIDDLE}.weight"][7].count_nonzero() == 0


def test_leftovers_of_a_living_run_are_not_touched(sd1_folder, tmp_path):
    with staging.staging_folder(tmp_path / "out") as living:
        (living.folder / "half").write_text("x")
        surgery.patch(sd1_folder, ROWS, tmp_path / "out")
        assert (living.folder / "half").exists()
