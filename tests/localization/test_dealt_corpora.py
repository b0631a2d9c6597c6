"""A corpus dealt out to processes: the same ranking and neurons, and a run goes on with any number."""

import json

import planted_model
import pytest
from launched import in_threads
from planted_model import PLANTED, caption

from surgery.cli import main
from surgery.errors import SurgeryError
from surgery.localization.journal import journals
from surgery.localization.localize import localize
from surgery.localization.scan import Judge, scan
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import load_pipeline

CORPUS = [*map(caption, PLANTED), *planted_model.ordinary_captions(8, seed=5)]
SETTINGS = LocalizeSettings(confirm_seeds=0, batch_size=2)


@pytest.fixture(scope="module")
def models(planted_folder):
    """One for each process; they cannot be loaded in threads."""
    return [load_pipeline(planted_folder, device="cpu") for _ in range(3)]


class Stop(Exception):
    """What ends a run in its midst."""


@pytest.fixture(scope="module", autouse=True)
def two_prompts_a_batch():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("surgery.localization.scan.CALLS_TOGETHER", 1)
        yield


@pytest.fixture(scope="module")
def alone(planted, calibration):
    return scan(planted, CORPUS, settings=SETTINGS, calibration=calibration)


@pytest.mark.parametrize(("begun", "ended"), [(3, 1), (1, 3), (2, 2)])
def test_a_scan_begun_by_any_number_of_processes_goes_on_with_any_other(
    models, calibration, alone, tmp_path, monkeypatch, begun, ended
):
    journal = tmp_path / "scan.journal"
    done = []

    class Stopping(Judge):
        def __call__(self, prompts):
            if len(done) == 4:
                raise Stop("stopped")
            done.append(len(prompts))
            return super().__call__(prompts)

    def work(processes):
        return scan(
            models[processes.rank],
            CORPUS,
            settings=SETTINGS,
            calibration=calibration,
            journal=journal,
            processes=processes,
        )

    monkeypatch.setattr("surgery.processes.SECONDS_TO_LOOK", 0)
    with monkeypatch.context() as patched, pytest.raises((Stop, SurgeryError), match=r"failed|stopped"):
        patched.setattr("surgery.localization.scan.Judge", Stopping)
        in_threads(begun, work)
    kept = [json.loads(line) for path in journals(journal) for line in path.read_text().splitlines()[1:]]
    assert 6 <= len(kept) < len(CORPUS)
    found = in_threads(ended, work)
    assert all(one.records == alone.records for one in found), "to the last bit, on every process"
    seeds = sum(one.seeds for one in alone.records)
    assert seeds == alone.work.unet_sample_forwards
    left = seeds - sum(line["seeds"] for line in kept)
    assert found[0].work.unet_sample_forwards == left, "nothing is scored twice"


def test_localize_deals_prompts_out(models, planted, calibration):
    def work(processes):
        own = []
        found = localize(
            models[processes.rank],
            CORPUS[:6],
            calibration=calibration,
            processes=processes,
            on_record=own.append,
        )
        return found, len(own)

    whole = localize(planted, CORPUS[:6], calibration=calibration)
    results = in_threads(2, work)
    assert sum(count for _, count in results) == 6
    for found, _ in results:
        assert found.neurons == whole.neurons
        assert [one.refined for one in found.records] == [one.refined for one in whole.records]


def test_the_command_keeps_a_journal_until_the_ranking_is_written(
    planted_folder, calibration, tmp_path, capsys, monkeypatch
):
    (tmp_path / "prompts.txt").write_text("\n".join(CORPUS))
    output = tmp_path / "ranking.jsonl"
    words = ["scan", planted_folder, "--prompts", tmp_path / "prompts.txt", "-o", output, "--device", "cpu"]
    words = [*map(str, words), "--threshold", "0.5", "--batch-size", "20"]

    def broken(*_arguments):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("surgery.files.write_atomically", broken)
        assert main(words) == 1
    assert len((tmp_path / "ranking.jsonl.journal").read_text().splitlines()) == 1 + len(CORPUS)
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["work"]["unet_sample_forwards"] == 0
    assert len(output.read_text().splitlines()) == len(CORPUS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "ranking.jsonl"]
    assert main([*words[:-2], "--batch-size", "30"]) == 0  # nothing is left that could refuse it
