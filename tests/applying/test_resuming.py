"""Interrupted at every step and resumed, with another section, with a file tampered with: always one end."""

import copy
import json
import signal
import stat
import subprocess
import sys
import time

import pytest
from small_recipes import AUDIT, CAPTIONS, PICTURE, SEARCH, write_small_recipe

from surgery.applying.apply import apply_recipe
from surgery.applying.steps.sequence import SEARCH as SEARCHING
from surgery.applying.steps.sequence import WRITE
from surgery.measures.pictures import to_png

STEPS = ["calibrate", "localize", "patch", "diff", "audit", "card", "verify"]


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def states(applied) -> dict[str, str]:
    return {step.name: step.state for step in applied.steps}


def done(applied) -> list[str]:
    return [name for name, state in states(applied).items() if state == "done"]


def comparable(out) -> dict:
    """The manifest without what differs from run to run: salted ids, and the audit's file, that has times."""
    manifest = copy.deepcopy(json.loads((out / "surgery-manifest.json").read_text()))
    del manifest["published"]["audit"]["sha256"]
    for prompt in manifest["published"]["prompts"]:
        del prompt["id"]
    return manifest


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """Two folders, each with a recipe that was carried out: one without a stop, one with fourteen."""
    whole, stopped = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("stopped")
    apply_recipe(write_small_recipe(whole), whole / "out", device="cpu")
    recipe = write_small_recipe(stopped)
    reached = []
    by_name = {step.name: type(step) for step in (*SEARCHING, *WRITE)}
    with pytest.MonkeyPatch.context() as patched:
        for name in STEPS:
            for after in (False, True):
                original = by_name[name].do

                def stop(self, run, original=original, after=after, name=name):
                    if after:
                        original(self, run)
                    reached.append((name, after))
                    raise Killed

                patched.setattr(by_name[name], "do", stop)
                with pytest.raises(Killed):
                    apply_recipe(recipe, stopped / "out", device="cpu")
                patched.setattr(by_name[name], "do", original)
    assert reached == [(name, after) for name in STEPS for after in (False, True)]
    last = apply_recipe(recipe, stopped / "out", device="cpu")
    assert done(last) == ["verify"]  # all others were noted on the way
    return whole, stopped


def test_stopped_before_and_after_every_step_it_ends_as_if_it_had_not_been(applied):
    whole, stopped = applied
    assert comparable(whole / "out") == comparable(stopped / "out")
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / "out").rglob("*")
            if path.is_file()
        }
        for folder in applied
    ]
    assert files[0].keys() == files[1].keys()
    differing = {str(path) for path in files[0] if files[0][path] != files[1][path]}
    assert differing <= {"out/surgery-manifest.json"}


def test_what_is_published_holds_no_prompt_and_no_picture(applied):
    row = PICTURE.permute(1, 2, 0).numpy().tobytes()[:64]
    words = {word for caption in CAPTIONS for word in caption.split() if len(word) > 6}
    assert len(words) >= 2
    private = [caption.encode() for caption in CAPTIONS] + [word.encode() for word in words]
    private += [to_png(PICTURE)[:64], to_png(PICTURE)[-64:-12], row]
    for folder in applied:
        evidence = b"".join(
            path.read_bytes() for path in (folder / "out.evidence").rglob("*") if path.is_file()
        )
        assert all(caption.encode() in evidence for caption in CAPTIONS)  # the search can find them
        assert stat.S_IMODE((folder / "out.evidence").stat().st_mode) == 0o700
        for path in (folder / "out").rglob("*"):
            if path.is_file() and path.name not in ("tokenizer.json", "vocab.json"):
                content = path.read_bytes()
                assert not any(one in content for one in private), path
            elif path.is_file():  # a vocabulary holds words, not captions
                assert not any(caption.encode() in path.read_bytes() for caption in CAPTIONS), path


def test_another_section_costs_only_what_depends_on_it(applied):
    """From one recipe to the next and back, in one working folder."""
    _, folder = applied
    out = folder / "out"
    assert not done(apply_recipe(write_small_recipe(folder), out, device="cpu"))
    extra = write_small_recipe(folder, body=SEARCH + AUDIT + "[card]\nbase_model = 'owner/name'\n")
    assert done(apply_recipe(extra, out, device="cpu")) == ["card", "verify"]
    assert "base_model: owner/name" in (out / "README.md").read_text()
    # nothing but the audit's own settings: no search, no weights
    judged = write_small_recipe(folder, body=SEARCH + AUDIT + "tolerance = 0.1\n")
    assert done(apply_recipe(judged, out, device="cpu")) == ["audit", "card", "verify"]
    assert "owner/name" not in (out / "README.md").read_text()
    # the gate alone: nothing is measured, nothing written
    gate = write_small_recipe(
        folder, body=SEARCH + AUDIT.replace('"replication"', '"attack"') + "tolerance = 0.1\n"
    )
    found = apply_recipe(gate, out, device="cpu")
    assert done(found) == [] and found.exit_status == 3
    # another aggregation: the journal has every prompt, and the neurons are the same ones
    body = SEARCH + AUDIT.replace('"replication"', '"attack"') + "tolerance = 0.1\n"
    joined = write_small_recipe(folder, body=body + "[aggregate]\nmost_frequent = 9\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "surgery.localization.one_prompt.PromptLocalizer.__call__",
            lambda *_: pytest.fail("searched again"),
        )
        assert done(apply_recipe(joined, out, device="cpu")) == ["localize"]
    # other neurons: all that follows
    one = write_small_recipe(folder, body=body + "[aggregate]\nmost_frequent = 1\n")
    assert done(apply_recipe(one, out, device="cpu")) == [
        "localize",
        "patch",
        "diff",
        "audit",
        "card",
        "verify",
    ]


def test_what_was_tampered_with_is_made_again(applied):
    folder, _ = applied
    recipe, out, work = write_small_recipe(folder), folder / "out", folder / "out.evidence"

    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    before = comparable(out)
    # made again, the bytes are those that were compared, audited and verified before
    flip(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert done(apply_recipe(recipe, out, device="cpu")) == ["patch", "card"]
    (out / "vae" / "config.json").unlink()
    assert done(apply_recipe(recipe, out, device="cpu")) == ["patch", "card"]
    flip(out / "README.md")
    assert done(apply_recipe(recipe, out, device="cpu")) == ["card"]
    (work / "neurons.json").unlink()
    assert done(apply_recipe(recipe, out, device="cpu")) == ["localize"]
    (work / "neurons.json").write_text((work / "neurons.json").read_text().replace("[", "[0, ", 1))
    assert done(apply_recipe(recipe, out, device="cpu")) == ["localize"]
    flip(work / "calibration.safetensors")
    assert done(apply_recipe(recipe, out, device="cpu")) == ["calibrate"]
    flip(work / "audit" / "audit.json")
    assert done(apply_recipe(recipe, out, device="cpu")) == ["audit", "card", "verify"]
    assert comparable(out) == before


def test_a_file_that_was_put_there_is_not_published(applied):
    from surgery.errors import GateError

    folder, _ = applied
    stray = folder / "out" / "prompts.txt"
    stray.write_text(CAPTIONS[0])
    with pytest.raises(GateError, match=r"prompts\.txt"):
        apply_recipe(write_small_recipe(folder), folder / "out", device="cpu")
    stray.unlink()
    assert done(apply_recipe(write_small_recipe(folder), folder / "out", device="cpu")) == ["verify"]


def test_a_real_kill_in_the_middle_of_the_audit(tmp_path):
    """SIGKILL once the first unit of the audit is on the disk: that unit is not measured again."""
    recipe = write_small_recipe(tmp_path)
    words = [sys.executable, "-m", "surgery", "apply", recipe, "-o", tmp_path / "out", "--device", "cpu"]
    running = subprocess.Popen([*map(str, words)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    state = tmp_path / "out.evidence" / "audit" / "state"
    units: list = []
    while not units and running.poll() is None:
        units = [path for path in state.glob("*.json") if path.name != "header.json"]
        time.sleep(0.002)
    running.kill()
    assert running.wait() == -signal.SIGKILL and units and not (state.parent / "audit.json").exists()
    applied = apply_recipe(recipe, tmp_path / "out", device="cpu")
    assert done(applied) == ["audit", "card", "verify"] and applied.passed
    work = json.loads((state.parent / "audit.json").read_text())["work"]
    assert 0 < work["this_run"] < work["sample_forwards"]
