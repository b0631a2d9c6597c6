"""A run over a corpus: aggregation, the journal, kill and resume, several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import planted_model
import pytest
import torch
from planted_model import PLANTED, caption

import surgery
from surgery.cli import main
from surgery.errors import UsageError
from surgery.files import write_atomically
from surgery.localization.journal import remove_journals
from surgery.localization.localize import localize
from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.records import aggregate
from surgery.localization.settings import LocalizeSettings
from surgery.neurons import NeuronSet

CORPUS = [caption("v"), "a b c d", caption("w"), caption("y"), "b d f h"]


def without_seconds(document):
    """A document as text, without what differs from run to run."""

    def strip(value):
        if isinstance(value, dict):
            return {name: strip(inner) for name, inner in value.items() if "seconds" not in name}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(strip(document))


def searched(record):
    """What the journal holds of a record: all that does not depend on the rest of the corpus.

    That is, without the confirmation of the corpus's set, what that cost, and the corrected p-value.
    """
    document = {name: value for name, value in record.as_json().items() if name not in ("final", "work")}
    look = document.get("second_look", {})
    return {**document, "second_look": {name: look[name] for name in look if name != "corrected"}}


@pytest.fixture(scope="module")
def whole(planted, calibration):
    return localize(planted, CORPUS, calibration=calibration)


def test_the_library_finds_the_same_in_every_way_to_call_it(
    planted, planted_folder, calibration, calibration_path, tmp_path
):
    (tmp_path / "prompts.txt").write_text("\n".join([*CORPUS, "", CORPUS[0]]))
    by_objects = surgery.localize(planted.pipeline, CORPUS, calibration=calibration)
    by_paths = surgery.localize(planted_folder, tmp_path / "prompts.txt", calibration=calibration_path)
    assert by_objects.records[0].refined == by_paths.records[0].refined == NeuronSet.from_pairs(PLANTED["v"])
    assert by_paths.evidence["corpus"] == {
        "source": "prompts.txt", "rows": 7, "prompts": 5, "blank": 1, "repeated": 1, "broken": 0,
    }  # fmt: skip


def test_prompt_sets_become_one_set_by_union_by_number_of_prompts_and_by_frequency():
    one, two, three = (NeuronSet({"a": rows, "b": [0]}) for rows in ([1], [1, 2], [2, 3]))
    assert aggregate([one, two, three]) == NeuronSet({"a": [1, 2, 3], "b": [0]})
    assert aggregate([one, two, three], minimum_prompts=2) == NeuronSet({"a": [1, 2], "b": [0]})
    assert aggregate([one, two, three], most_frequent=2) == NeuronSet({"a": [1], "b": [0]})
    assert aggregate([one, two, three], most_frequent=1, per_layer=True) == NeuronSet({"a": [1], "b": [0]})
    assert aggregate([]) == NeuronSet()
    for wrong in ({"minimum_prompts": 0}, {"most_frequent": 0}):
        with pytest.raises(UsageError, match="less than 1"):
            aggregate([one], **wrong)


def test_a_finished_journal_answers_for_every_prompt(planted, calibration, tmp_path, monkeypatch, whole):
    journal = tmp_path / "run.journal"
    first = localize(planted, CORPUS[:3], calibration=calibration, journal=journal)
    asked = []
    original = PromptLocalizer.__call__
    monkeypatch.setattr(
        PromptLocalizer, "__call__", lambda self, prompt: asked.append(prompt) or original(self, prompt)
    )
    second = localize(planted, CORPUS, calibration=calibration, journal=journal)
    assert asked == CORPUS[3:]
    assert [searched(record) for record in second.records[:3]] == [
        searched(record) for record in first.records
    ]
    assert without_seconds(second.as_json()) == without_seconds(whole.as_json())
    assert len(journal.read_text().splitlines()) == 1 + len(CORPUS)
    # A run begun with more processes goes on with one, and leaves no journal of theirs behind.
    journal.rename(tmp_path / "run.journal.3")
    (tmp_path / "run.journal.txt").write_text("something else")
    third = localize(planted, CORPUS, calibration=calibration, journal=journal)
    assert asked == CORPUS[3:]
    assert third.neurons == second.neurons
    remove_journals(journal)
    assert [path.name for path in tmp_path.iterdir()] == ["run.journal.txt"]


def test_a_journal_made_with_other_settings_is_refused_by_name(planted, calibration, tmp_path):
    journal = tmp_path / "run.journal"
    localize(planted, CORPUS[1:2], calibration=calibration, journal=journal)
    other = LocalizeSettings(theta_start=4.5, batch_size=5, criterion="noise-changed")
    with pytest.raises(UsageError, match="criterion 'target-gone' there, 'noise-changed' here") as caught:
        localize(planted, CORPUS[:1], calibration=calibration, journal=journal, settings=other)
    assert "theta_start 5.0 there, 4.5 here" in str(caught.value)
    assert "batch_size" not in str(caught.value)  # does not change the result
    journal.write_text("not a journal\n")
    with pytest.raises(UsageError, match="is not a journal"):
        localize(planted, CORPUS[:1], calibration=calibration, journal=journal)
    with pytest.raises(UsageError, match="no such folder"):
        localize(planted, CORPUS[:1], calibration=calibration, journal=tmp_path / "nowhere" / "journal")


RUN_UNTIL_KILLED = """
import os, signal, sys
from surgery.localization.localize import localize
model, calibration, journal, *prompts = sys.argv[1:]
done = []
def on_record(record):
    done.append(record)
    if len(done) == 2:
        with open(journal, "a") as file:  # as if killed while writing the third line
            file.write('{"prompt": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)
localize(model, prompts, calibration=calibration, journal=journal, on_record=on_record)
"""


def test_a_killed_run_goes_on_where_it_stopped(
    planted, planted_folder, calibration_path, tmp_path, monkeypatch, whole
):
    journal = tmp_path / "run.journal"
    command = [sys.executable, "-c", RUN_UNTIL_KILLED, planted_folder, calibration_path, journal, *CORPUS]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    asked = []
    original = PromptLocalizer.__call__
    monkeypatch.setattr(
        PromptLocalizer, "__call__", lambda self, prompt: asked.append(prompt) or original(self, prompt)
    )
    resumed = localize(planted, CORPUS, calibration=calibration_path, journal=journal)
    assert asked == CORPUS[2:]
    assert resumed.neurons == whole.neurons
    assert [record.refined for record in resumed.records] == [record.refined for record in whole.records]


def test_two_processes_give_the_same_file_as_one(planted_folder, calibration_path, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(CORPUS))

    def command(output):
        words = [
            "localize",
            planted_folder,
            "--prompts",
            prompts,
            "--calibration",
            calibration_path,
            "-o",
            output,
            "--confirm-pictures",
            0,  # they are drawn in fewer steps in this process
        ]
        return [sys.executable, "-m", "surgery", *map(str, words), "--device", "cpu"]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    shared = {
        **lone,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    # Started by hand as torchrun starts them, but for its name look-ups, which need a network.
    running = [
        subprocess.Popen(
            command(tmp_path / "two.json"), env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in (1, 0)
    ]
    printed = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed[0] == b""  # only process 0 reports
    assert b"localized" in printed[1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(command(tmp_path / "one.json")[3:]) == 0
    finally:
        torch.set_num_threads(threads)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert without_seconds(one) == without_seconds(two)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "prompts.txt", "two.json"]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"criterion": "magic"}, "choose from seeds-diverge, noise-changed"),
        ({"strategy": "slow"}, "choose from fast, reference"),
        ({"blocks": ("left",)}, "choose from down, mid, up"),
        ({"blocks": ()}, "none is named"),
        ({"seeds": 1}, "less than 2"),
        ({"theta_step": 0.0}, "does not descend"),
        ({"theta_start": 0.5}, "below the minimum"),
        ({"use_theta": False, "use_top_k": False}, "no way to select"),
        ({"confirm_seed": 1}, "fresh seeds need another one"),
        ({"confirm_seeds": 1}, "no pair"),
        ({"guidance": float("inf")}, "not a number"),
        ({"batch_size": 0}, "less than 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, cause):
    with pytest.raises(UsageError, match=cause):
        LocalizeSettings(**changes)


def test_prompts_that_are_no_text_are_refused(planted):
    for prompts, cause in [([], "there are none"), ([1], "is not text"), (["  "], "there are none")]:
        with pytest.raises(UsageError, match=cause):
            localize(planted, prompts)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "out.json"
    target.write_text("before")
    monkeypatch.setattr(Path, "replace", lambda self, other: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_atomically(target, b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert target.read_text() == "before"


def test_ordinary_captions_hold_no_trigger_word():
    # The model's own premise: what calibrates it is not memorized.
    words = {word for line in planted_model.ordinary_captions(80) for word in line.split()}
    assert not words & set(PLANTED)
