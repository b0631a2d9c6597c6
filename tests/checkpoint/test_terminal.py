"""What the command line prints: one clear line per mistake, nothing a terminal would obey, strict JSON."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoint_builders import DOWN, MIDDLE
from safetensors.torch import load_file, save_file

import surgery
from surgery.checkpoint.formats import regular_file
from surgery.errors import UsageError
from surgery.files import expanded, strict_json
from surgery.neurons import NeuronSet
from surgery.text import printable

UNET = "unet/diffusion_pytorch_model.safetensors"
NOBODY = "~no-such-user/x"
LONG = "a" * 300


def command(*words, code="", **options):
    """The console script in a process of its own: (status, stdout, stderr)."""
    start = [sys.executable, "-c", code + "from surgery.cli import entry; entry()"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    done = subprocess.run([*start, *map(str, words)], timeout=100, **options)
    return done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode()


def assert_one_line(found, message, status=2):
    assert found[0] == status
    assert message in found[2] and found[2].count("\n") == 1 and "Traceback" not in found[2]


@pytest.mark.parametrize("path", [NOBODY, LONG, "circle", "circle/x", "null\0byte"])
@pytest.mark.parametrize("position", ["source", "output", "neurons", "plan", "inspect"])
def test_a_path_that_cannot_be_used_is_one_line(
    surgery_run, sd1_folder, neurons, tmp_path, monkeypatch, path, position
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circle").symlink_to("other")
    (tmp_path / "other").symlink_to("circle")
    words = {
        "source": ("patch", path, neurons, "-o", "out"),
        "output": ("patch", sd1_folder, neurons, "-o", path),
        "neurons": ("patch", sd1_folder, path, "-o", "out"),
        "plan": ("diff", sd1_folder, sd1_folder, "--plan", path),
        "inspect": ("inspect", path),
    }[position]
    causes = {NOBODY: "no such home folder", LONG: "name too long", "null\0byte": "null byte"}
    assert_one_line(surgery_run(*words), causes.get(path, "levels of symbolic links"))


@pytest.mark.parametrize("keep", [NOBODY, LONG])
def test_a_kept_file_that_cannot_be_is_one_line(surgery_run, sd1_folder, neurons, tmp_path, keep):
    found = surgery_run("patch", sd1_folder, neurons, "-o", tmp_path / "out", "--keep", keep)
    assert_one_line(found, "the checkpoint has no such file")


def test_a_kept_file_that_cannot_be_read_is_one_line(surgery_run, model, neurons, tmp_path, monkeypatch):
    (model / "README.md").write_text("a card")
    really_open = os.open

    def refuse(path, *arguments, **named):
        if str(path).endswith("README.md"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really_open(path, *arguments, **named)

    monkeypatch.setattr(regular_file.os, "open", refuse)
    found = surgery_run("patch", model, neurons, "-o", tmp_path / "out", "--keep", "README.md")
    sentence = "README.md: cannot be read (Permission denied); check the path and its permissions"
    assert_one_line(found, sentence)


def test_a_folder_that_may_not_be_entered_is_one_line(
    surgery_run, sd1_folder, neurons, tmp_path, monkeypatch
):
    stat = os.stat

    def refuse(path, *rest, **more):
        if "closed" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *rest, **more)

    monkeypatch.setattr(os, "stat", refuse)
    found = surgery_run("patch", sd1_folder, neurons, "-o", tmp_path / "closed" / "out")
    assert_one_line(found, "is not a usable path (Permission denied)")


def test_no_home_and_no_user_is_one_line(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="no such home folder"):
        expanded("~/x")


def test_a_current_folder_that_is_gone_is_one_line(sd1_folder, neurons, tmp_path):
    gone = f"import os; os.mkdir({str(tmp_path / 'gone')!r}); os.chdir({str(tmp_path / 'gone')!r}); "
    gone += f"os.rmdir({str(tmp_path / 'gone')!r}); "
    found = command("patch", sd1_folder, neurons, "-o", "out", code=gone)
    assert_one_line(found, "out: the current folder is not there")
    assert command("patch", sd1_folder, neurons, "-o", tmp_path / "out", code=gone)[0] == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["--help"], ["--version"]])
def test_a_full_standard_output_is_one_line(sd1_folder, words, unbuffered):
    if "--help" in words and unbuffered:
        pytest.skip("argparse itself swallows the error")
    words = [*words, sd1_folder] if "inspect" in words else words
    with open("/dev/full", "wb") as full:  # noqa: PTH123 -- a device
        found = command(*words, stdout=full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert_one_line(found, "No space left on device", status=1)


def test_closed_standard_streams_take_no_output(sd1_folder, neurons, tmp_path):
    close = "import os; os.close(1); os.close(2); "
    assert command("patch", sd1_folder, neurons, "-o", tmp_path / "out", code=close)[0] == 0
    assert surgery.diff(sd1_folder, tmp_path / "out", plan=neurons).as_planned


@pytest.mark.parametrize("moment", ["surgery.commands.inspect", "surgery.checkpoint.inspect"])
def test_an_interrupt_during_imports_is_one_line(sd1_folder, moment):
    code = (
        "import os, signal, sys\n"
        # what starts this may ignore interrupts, as a shell does for its background jobs, and hand that down
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Late:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {moment!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Late())\n"
    )
    found = command("inspect", sd1_folder, code=code)
    assert found[0] in (130, -2) and found[2] == "surgery inspect: interrupted\n"


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_names_that_the_terminal_lacks_do_not_fail_a_finished_patch(model, neurons, tmp_path, environment):
    for name in (b"unet/deep-\xff", "unet/überall".encode()):
        os.mkdir(os.fsencode(model) + b"/" + name)  # noqa: PTH102 -- bytes
    output = tmp_path / "größer"
    status, out, err = command("patch", model, neurons, "-o", output, env=os.environ | environment)
    assert (status, err) == (0, "")
    assert "unet/deep-\\udcff/" in out and out.isascii()
    assert surgery.diff(model, output, plan=neurons).as_planned


def test_an_output_whose_name_is_no_text_has_a_manifest(sd1_folder, neurons, tmp_path):
    output = os.fsdecode(os.fsencode(tmp_path) + b"/out-\xff.safetensors")
    result = surgery.patch(sd1_folder / UNET, neurons, output)
    assert json.loads(result.manifest_path.read_text())["files"][0]["path"] == "out-\udcff.safetensors"


EVIL = "\x1b[2J\x1b[1;31mas planned\n\x07‮"


def test_escape_sequences_of_names_do_not_reach_the_terminal(surgery_run, model, neurons, tmp_path):
    tensors = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(tensors | {EVIL: torch.ones(2)}, model / "vae" / "diffusion_pytorch_model.safetensors")
    (model / f"{EVIL}.txt").write_text("x")
    (model / "unet" / EVIL).mkdir()
    other = tmp_path / "other"
    assert surgery_run("patch", model, neurons, "-o", other)[0] == 0
    vae = other / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(vae) | {EVIL: torch.zeros(2), EVIL + "2": torch.ones(2)}, vae)
    runs = [
        ("inspect", model),
        ("inspect", tmp_path / EVIL),
        ("patch", model, neurons, "-o", tmp_path / EVIL),
        ("patch", model, neurons, "-o", tmp_path / EVIL),
        ("patch", model, neurons, "-o", tmp_path / "out2", "--keep", EVIL),
        ("diff", model, other),
        ("diff", model, other, "--plan", neurons),
    ]
    for words in runs:
        _, out, err = surgery_run(*words)
        for line in (out + err).split("\n"):
            assert line.isprintable(), line
            assert not line.strip().startswith("as planned")


def test_printable_escapes_what_is_not():
    assert printable("plain text") == "plain text"
    assert printable(EVIL) == "\\x1b[2J\\x1b[1;31mas planned\\n\\x07\\u202e"
    assert printable("\udcff") == "\\udcff"


def test_json_is_strict(surgery_run, model, tmp_path):
    assert json.loads(strict_json({"a": [math.inf, -math.inf, math.nan, 1.5], "b": ("x", None)})) == {
        "a": [None, None, None, 1.5],
        "b": ["x", None],
    }
    other = surgery.patch(model, {MIDDLE: [3]}, tmp_path / "out").output
    tensors = load_file(other / UNET)
    tensors[f"{DOWN}.weight"][0, 0] = math.inf
    tensors[f"{DOWN}.weight"][1, 0] = math.nan
    save_file(tensors, other / UNET)

    def refuse(constant):
        raise AssertionError(constant)

    _, out, _ = surgery_run("diff", model, other, "--json")
    assert json.loads(out, parse_constant=refuse)["identical"] is False


def test_a_revision_of_a_path_is_refused(surgery_run, sd1_folder, neurons, tmp_path):
    for words in (
        ("patch", sd1_folder, neurons, "-o", tmp_path / "out"),
        ("inspect", sd1_folder),
        ("diff", sd1_folder, sd1_folder),
    ):
        found = surgery_run(*words, "--revision", "main")
        assert_one_line(found, "is a path, and only a Hub id has revisions")


@pytest.mark.parametrize(
    "rows",
    [np.array([1, 2]), [np.int64(1), np.uint8(2)], torch.tensor([2, 1]), {1, 2}],
)
def test_integers_of_numpy_and_torch_are_rows(rows):
    neurons = NeuronSet({MIDDLE: rows})
    assert neurons[MIDDLE] == (1, 2)
    assert json.loads(json.dumps(neurons.as_json())) == {MIDDLE: [1, 2]}


@pytest.mark.parametrize(
    "rows",
    [
        np.array([1.0]),
        np.array([True]),
        torch.tensor([True]),
        np.array([-1]),
        np.array([[1, 2]]),
        np.array(3),
    ],
)
def test_other_arrays_are_refused(rows):
    with pytest.raises(UsageError, match="integer"):
        NeuronSet({MIDDLE: rows})
