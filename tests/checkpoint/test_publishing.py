"""What lies at the output, or comes to lie there while `patch` runs, and what killed runs leave behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from checkpoint_builders import DOWN, MIDDLE

import surgery
from surgery.checkpoint.edit import destination, publishing, renames, staging
from surgery.errors import SurgeryError, UsageError

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
UNET = "unet/diffusion_pytorch_model.safetensors"
BESIDE = ".surgery-manifest.json"


@pytest.fixture(params=["renameat2", "links and empty folders", "nothing but rename"])
def system(request, monkeypatch):
    """What the operating system and the file system know."""
    if request.param != "renameat2":
        monkeypatch.setattr(renames, "_rename", lambda *_: False)
    if request.param == "nothing but rename":

        def refuse(self, target):
            target.stat()
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.fixture(params=["folder", "file"])
def kind(request):
    return request.param


@pytest.fixture
def place(sd1_folder, tmp_path, kind):
    """(source, output) of a folder or of a single file."""
    if kind == "folder":
        return sd1_folder, tmp_path / "out"
    return sd1_folder / UNET, tmp_path / "out.safetensors"


def while_it_runs(monkeypatch, action):
    """Do something when everything is written, and nothing is published."""
    publish = publishing.Staging.publish

    def late(self):
        action()
        return publish(self)

    monkeypatch.setattr(publishing.Staging, "publish", late)


def put_letter(path, is_folder=True):
    if is_folder:
        path.mkdir()
        (path / "letter.txt").write_text("dear all")
    else:
        path.write_text("dear all")


def everything(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("is_folder", [True, False])
def test_what_appears_at_the_output_meanwhile_is_not_touched(
    place, tmp_path, monkeypatch, system, force, is_folder
):
    source, output = place
    while_it_runs(monkeypatch, lambda: put_letter(output, is_folder))
    with pytest.raises(
        UsageError, match=r"appeared while this run wrote|exists|not a checkpoint that surgery"
    ):
        surgery.patch(source, ROWS, output, force=force)
    letter = output / "letter.txt" if is_folder else output
    assert letter.read_text() == "dear all"
    assert len(everything(tmp_path)) == 1 + is_folder


def test_an_empty_folder_that_appears_meanwhile_is_not_taken(sd1_folder, tmp_path, monkeypatch, system):
    while_it_runs(monkeypatch, (tmp_path / "out").mkdir)
    with pytest.raises(UsageError, match="appeared while this run wrote"):
        surgery.patch(sd1_folder, ROWS, tmp_path / "out")
    assert everything(tmp_path) == {"out": False}


def test_what_takes_the_place_of_an_old_output_meanwhile_is_not_touched(place, tmp_path, monkeypatch, kind):
    source, output = place
    surgery.patch(source, {MIDDLE: [1]}, output)

    def replace():
        output.rename(tmp_path / "moved")
        put_letter(output, kind == "folder")

    while_it_runs(monkeypatch, replace)
    with pytest.raises(UsageError, match="not a checkpoint that surgery wrote"):
        surgery.patch(source, ROWS, output, force=True)
    assert (output / "letter.txt" if kind == "folder" else output).read_text() == "dear all"
    assert (tmp_path / "moved").exists()


def test_what_is_swapped_in_at_the_last_moment_goes_back(place, tmp_path, monkeypatch, kind, system):
    """Between the last question and the exchange: what came out is not what was asked about."""
    source, output = place
    surgery.patch(source, {MIDDLE: [1]}, output)
    swap, swaps = publishing.swap, []

    def late(*places):
        if not swaps:
            output.rename(tmp_path / "moved")
            put_letter(output, kind == "folder")
        swaps.append(places)
        swap(*places)

    monkeypatch.setattr(publishing, "swap", late)
    with pytest.raises(UsageError, match="not a checkpoint that surgery wrote"):
        surgery.patch(source, ROWS, output, force=True)
    assert (output / "letter.txt" if kind == "folder" else output).read_text() == "dear all"
    assert len(swaps) == 2


def test_replacing_and_being_refused_are_the_same_on_every_system(place, tmp_path, system):
    source, output = place
    surgery.patch(source, {MIDDLE: [1]}, output)
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="exists"):
        surgery.patch(source, ROWS, output)
    assert everything(tmp_path) == before
    surgery.patch(source, ROWS, output, force=True)
    assert surgery.diff(source, output, plan=ROWS).as_planned
    assert everything(tmp_path).keys() == before.keys()


def test_six_runs_to_one_output_have_one_winner(place, tmp_path, neurons):
    source, output = place
    command = [sys.executable, "-m", "surgery", "patch", str(source), str(neurons), "-o", str(output)]
    with_pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, **with_pipe) for _ in range(6)]
    ends = [(*run.communicate(timeout=100), run.returncode) for run in runs]
    assert sorted(status for _, _, status in ends) == [0, 2, 2, 2, 2, 2]
    for out, err, status in ends:
        if status:
            assert out == "" and err.count("\n") == 1
            assert "appeared while this run wrote" in err or "exists" in err
    assert surgery.diff(source, output, plan=neurons).as_planned
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_folders_of_others_that_look_like_leftovers_stay(sd1_folder, tmp_path):
    for name in (".out.surgery-notes", ".out.surgery-0123456789abcdef"):
        put_letter(tmp_path / name)
    (tmp_path / ".out.surgery-empty").mkdir()
    put_letter(tmp_path / ".out.surgery-other")
    (tmp_path / ".out.surgery-other" / staging.MARK).write_bytes(staging._mark(tmp_path / "other"))
    put_letter(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / staging.MARK).write_bytes(staging._mark(tmp_path / "out"))
    (tmp_path / ".out.surgery-link").symlink_to("elsewhere")
    before = everything(tmp_path)
    surgery.patch(sd1_folder, ROWS, tmp_path / "out")
    after = everything(tmp_path)
    assert {name: after[name] for name in before} == before


def test_leftovers_of_ours_are_removed(sd1_folder, tmp_path):
    output = tmp_path / "out"
    put_letter(tmp_path / ".out.surgery-x")
    (tmp_path / ".out.surgery-x" / staging.MARK).write_bytes(staging._mark(output))
    for drawn, mark in (("00000000", None), ("00000001", b""), ("00000002", staging._mark(output)[:9])):
        folder = tmp_path / staging._name(output, drawn)
        folder.mkdir()
        if mark is not None:
            (folder / staging.MARK).write_bytes(mark)
    surgery.patch(sd1_folder, ROWS, output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stray_manifest_is_not_overwritten(sd1_folder, tmp_path):
    output = tmp_path / "out.safetensors"
    stray = tmp_path / f"out.safetensors{BESIDE}"
    stray.write_text("mine")
    with pytest.raises(UsageError, match=r"surgery-manifest.json: exists"):
        surgery.patch(sd1_folder / UNET, ROWS, output)
    with pytest.raises(UsageError, match="is not a manifest that surgery wrote"):
        surgery.patch(sd1_folder / UNET, ROWS, output, force=True)
    assert stray.read_text() == "mine" and len(everything(tmp_path)) == 1


def test_a_manifest_that_appears_at_the_last_moment_stays(sd1_folder, tmp_path, monkeypatch, system):
    output = tmp_path / "out.safetensors"
    stray = tmp_path / f"out.safetensors{BESIDE}"
    publish = publishing.Staging._publish

    def late(*arguments):
        publish(*arguments)
        stray.write_text("mine")

    monkeypatch.setattr(publishing.Staging, "_publish", late)
    with pytest.raises(UsageError, match="appeared while this run wrote"):
        surgery.patch(sd1_folder / UNET, ROWS, output)
    assert stray.read_text() == "mine" and len(everything(tmp_path)) == 1


def test_forcing_over_a_file_that_is_not_ours_is_refused(sd1_folder, tmp_path):
    output = tmp_path / "out.safetensors"
    shutil.copy(sd1_folder / UNET, output)
    for manifest in (None, "[]", json.dumps({"format": "surgery.manifest/1", "files": [{"bytes": 5}]})):
        if manifest is not None:
            (tmp_path / f"out.safetensors{BESIDE}").write_text(manifest)
        with pytest.raises(UsageError, match="not a checkpoint that surgery wrote"):
            surgery.patch(sd1_folder / UNET, ROWS, output, force=True)
    surgery.patch(sd1_folder / UNET, ROWS, tmp_path / "own.safetensors")
    content = bytearray((tmp_path / "own.safetensors").read_bytes())
    content[-1] ^= 1  # of the right size, but trained on by somebody
    (tmp_path / "own.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="not a checkpoint that surgery wrote"):
        surgery.patch(sd1_folder / UNET, ROWS, tmp_path / "own.safetensors", force=True)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("calls", range(1, 9))
def test_killed_between_any_two_renames_a_rerun_sets_a_file_right(
    sd1_folder, tmp_path, monkeypatch, system, old, calls
):
    """The run ends, as if killed, at each step of publishing; its own cleaning up does not happen."""
    source, output = sd1_folder / UNET, tmp_path / "out.safetensors"
    beside = tmp_path / f"out.safetensors{BESIDE}"
    if old:
        surgery.patch(source, {MIDDLE: [1]}, output)
    left = iter(range(calls))

    class Killed(BaseException):
        pass

    def dying(function):
        def step(*arguments):
            if next(left, None) is None:
                raise Killed
            return function(*arguments)

        return step

    with monkeypatch.context() as patched:
        for module, name in ((publishing, "sync_folder"), (renames, "put"), (publishing, "put")):
            patched.setattr(module, name, dying(getattr(module, name)))
        patched.setattr(Path, "rename", dying(Path.rename))
        patched.setattr(staging, "settle", lambda *_: None)
        patched.setattr(staging, "_remove", lambda *_: None)
        with suppress(Killed):
            surgery.patch(source, ROWS, output, force=old)
    if beside.exists():
        assert destination.is_ours(output, True)  # a manifest vouches for what it describes
    staging.remove_leftovers(output)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    if output.exists():
        assert destination.is_ours(output, True)
    assert output.exists() or not old
    surgery.patch(source, ROWS, output, force=True)
    assert surgery.diff(source, output, plan=ROWS).as_planned
    assert {path.name for path in tmp_path.iterdir()} == {output.name, beside.name}


def test_killed_between_two_renames_a_folder_comes_back(sd1_folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    surgery.patch(sd1_folder, {MIDDLE: [1]}, output)
    before = everything(output)
    folder = tmp_path / ".out.surgery-x"
    folder.mkdir()
    (folder / staging.MARK).write_bytes(staging._mark(output))
    output.rename(folder / "replaced")
    with pytest.raises(UsageError, match="exists"):
        surgery.patch(sd1_folder, ROWS, output)
    assert everything(output) == before and not folder.exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("after", range(1, 25, 2))
def test_a_sync_that_fails_leaves_nothing_or_says_that_the_output_stands(
    place, tmp_path, monkeypatch, number, after
):
    source, output = place
    surgery.patch(source, {MIDDLE: [1]}, output)
    before = everything(tmp_path)
    sync, calls = os.fsync, iter(range(after))

    def fail(descriptor):
        if next(calls, None) is None:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    try:
        surgery.patch(source, ROWS, output, force=True)
    except SurgeryError as error:
        stands = "was written, but may not outlast a power cut" in str(error)
        assert stands or "could not be written" in str(error)
    else:
        stands = True
    if stands:
        assert surgery.diff(source, output, plan=ROWS).as_planned
        assert everything(tmp_path).keys() == before.keys()
    else:
        assert everything(tmp_path) == before


def test_a_full_disk_at_any_write_leaves_nothing(place, tmp_path, monkeypatch):
    source, output = place
    for name in ("pwrite", "fsync", "mkdir"):
        with monkeypatch.context() as patched:

            def full(*_, **__):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patched.setattr(os, name, full)
            with pytest.raises(SurgeryError, match="No space left on device"):
                surgery.patch(source, ROWS, output)
        assert not any(tmp_path.iterdir())


def modes(folder):
    return {
        str(path.relative_to(folder)): oct(path.stat().st_mode & 0o777)
        for path in [folder, *folder.rglob("*")]
        if path.exists()
    }


def test_nobody_may_read_in_the_output_who_could_not_read_the_source(model, tmp_path):
    (model / UNET).chmod(0o600)
    (model / "vae" / "config.json").chmod(0o440)
    (model / "vae").chmod(0o700)
    model.chmod(0o750)
    umask = os.umask(0o022)
    try:
        output = surgery.patch(model, ROWS, tmp_path / "out").output
        single = surgery.patch(model / UNET, ROWS, tmp_path / "out.safetensors")
    finally:
        os.umask(umask)
    found = modes(output)
    assert found["."] == "0o750" and found["vae"] == "0o700" and found["unet"] == "0o755"
    assert found[UNET] == "0o600" and found["vae/config.json"] == "0o640"
    assert found["unet/config.json"] == "0o644"
    assert oct(single.output.stat().st_mode & 0o777) == oct(single.manifest_path.stat().st_mode & 0o777)
    assert single.output.stat().st_mode & 0o777 == 0o600
