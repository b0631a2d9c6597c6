"""An audit dealt out to processes: the files of one process, with any budget, going on with any number."""

import copy
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from launched import in_threads
from planted_memory import SETTINGS, run

from surgery.auditing import canaries
from surgery.auditing.bench import Bench
from surgery.auditing.ledger import Ledger
from surgery.errors import SurgeryError
from surgery.processes import Processes

SMALL = replace(SETTINGS, seeds=2, steps=2, ordinary=1, curve=(0, 1), controls=2, canaries=2)
MOST = 3


@pytest.fixture(scope="module")
def copies(planted):
    """The memory once for each process: pipelines share schedulers, which have a state."""
    return [copy.deepcopy(planted) for _ in range(MOST)]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Canaries that are taught soon, and units that take no time: then nothing may differ."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in {"MOST_STEPS": 2, "CHECK_EVERY": 1, "KEEP_PICTURES": 2, "TOOK_SHARE": 0.0}.items():
            monkeypatch.setattr(canaries, name, value)
        monkeypatch.setattr("surgery.auditing.bench.time", SimpleNamespace(perf_counter=lambda: 0.0))
        monkeypatch.setattr("surgery.processes.SECONDS_TO_LOOK", 0)
        yield


def audited(copies, inputs, folder, count, **options):
    """The two files, and what each process says; prompts' names do not depend on chance."""
    (folder / "state").mkdir(parents=True, exist_ok=True)
    (folder / "state" / "salt").write_text("0" * 32)

    def work(processes):
        one = copies[processes.rank]
        return run(one, inputs, folder, (one.KEY,), SMALL, controls=False, processes=processes, **options)

    results = in_threads(count, work)
    assert all(result.document == results[0].document for result in results)
    assert [result.page != "" for result in results] == [True] + [False] * (count - 1)
    return (folder / "audit.json").read_bytes(), (folder / "audit.html").read_bytes()


@pytest.fixture(scope="module")
def alone(copies, inputs, quick, tmp_path_factory):
    return audited(copies, inputs, tmp_path_factory.mktemp("alone"), 1)


def test_three_processes_write_the_files_of_one(copies, inputs, alone, tmp_path):
    assert audited(copies, inputs, tmp_path, 3) == alone
    document = json.loads(alone[0])
    assert document["complete"] and document["attacks"]["embedding"]["canaries"]["took"] == 2
    assert document["work"]["this_run"] > document["work"]["sample_forwards"], "canaries were taught"
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("begun", "ended"), [(3, 1), (1, 3)])
def test_an_audit_begun_by_any_number_of_processes_goes_on_with_any_other(
    copies, inputs, alone, tmp_path, monkeypatch, begun, ended
):
    measured = Bench._measured
    keys = []

    def stopping(self, job):
        if len(keys) == 7:
            raise SurgeryError("the machine", "was taken away")
        keys.append(job.key)
        return measured(self, job)

    with monkeypatch.context() as patched, pytest.raises(SurgeryError, match=r"taken away|failed, so"):
        patched.setattr(Bench, "_measured", stopping)
        audited(copies, inputs, tmp_path, begun)
    kept = {path.stem for path in (tmp_path / "state").glob("*.json")} - {"header"}
    assert kept == set(keys) and not (tmp_path / "audit.json").exists()
    document = json.loads(audited(copies, inputs, tmp_path, ended)[0])
    whole = json.loads(alone[0])
    assert document["work"].pop("this_run") < whole["work"].pop("this_run")
    assert document == whole


@pytest.mark.parametrize("limit", [30, 100, 230])
def test_a_budget_measures_the_same_units_whatever_the_number_of_processes(copies, inputs, tmp_path, limit):
    files = [audited(copies, inputs, tmp_path / str(count), count, max_forwards=limit) for count in (1, 3)]
    assert files[0] == files[1]
    work = json.loads(files[0][0])["work"]
    assert work["this_run"] <= limit == work["max_forwards"]


@pytest.mark.parametrize("limit", [0, 7, 20, 33, 1_000])
def test_the_ledger_answers_as_one_process_would(limit):
    """Pieces that take less than they may, so that what fits depends on what is over."""
    costs = [(5 + number * 7 % 11, 1 + number * 5 % 5, f"{number % 3 or ''}") for number in range(24)]

    def work(processes):
        ledger = Ledger(processes, "plan", limit, 3)
        begun = []
        for number in processes.deal(len(costs)):
            most, taken, group = costs[number]
            if ledger.allows(number, most, group):
                begun.append(number)
                time.sleep(0.002 * ((number * processes.count) % 3))
                ledger.book(number, taken)
        return begun

    alone, spent, refused = [], 3, set()
    for number, (most, taken, group) in enumerate(costs):
        if spent + most <= limit and group not in refused:
            alone.append(number)
            spent += taken
        elif group:
            refused.add(group)
    assert work(Processes()) == alone
    for count in (2, 4):
        assert sorted(number for begun in in_threads(count, work) for number in begun) == alone
