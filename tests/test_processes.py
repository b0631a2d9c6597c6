"""Processes that meet in a store: what they exchange, how they part, what happens when one fails."""

import socket
import subprocess
import sys
import threading

import pytest
from launched import in_threads, started

from surgery.errors import SurgeryError, UsageError
from surgery.launchers import place_in_environment
from surgery.processes import Processes

# Large values cross in pieces; every rank sees the same; nobody keeps what all have read.
EXCHANGE = """
from surgery.processes import PIECE_BYTES, Processes
with Processes.join() as processes:
    own = {"rank": processes.rank, "large": bytes([processes.rank]) * (2 * PIECE_BYTES + processes.rank)}
    values = processes.gather(own)
    assert [value["rank"] for value in values] == [0, 1, 2]
    assert [value["large"] for value in values] == [bytes([r]) * (2 * PIECE_BYTES + r) for r in range(3)]
    assert processes.from_main(f"from {processes.rank}") == "from 0"
    assert processes.from_main(None) is None
    assert processes.gather(processes.rank) == [0, 1, 2]
    if processes.is_main:
        while processes._store.check(["3/2"]):
            pass
        assert not processes._store.check(["0/0"]) and not processes._store.check(["0/2/1"])
    print("rank", processes.rank, "done")
"""

FAIL = """
import sys
from surgery.errors import SurgeryError
from surgery.processes import Processes
failing = int(sys.argv[1])
try:
    with Processes.join() as processes:
        if processes.rank == failing:
            raise ValueError("of my own")
        processes.gather("never complete")
except (SurgeryError, ValueError) as error:
    print(error)
    sys.exit(1)
"""


def test_every_process_sees_every_value_and_all_part_cleanly():
    ended = started(3, "-c", EXCHANGE)
    assert [status for status, _ in ended] == [0, 0, 0], ended
    assert [f"rank {rank} done" in output for rank, (_, output) in enumerate(ended)] == [True] * 3


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_stops_the_others_instead_of_leaving_them_to_wait(failing):
    ended = started(2, "-c", FAIL, failing)
    assert [status for status, _ in ended] == [1, 1]
    assert "of my own" in ended[failing][1]
    assert f"process {failing}: failed, so the others stop" in ended[1 - failing][1]


def test_a_lone_process_exchanges_with_itself():
    with Processes() as processes:
        assert processes.is_main
        assert processes.gather(1) == [1]
        assert processes.from_main("x") == "x"
        assert list(processes.deal(3)) == [0, 1, 2]


def test_what_is_delivered_reaches_the_one_it_is_for_and_is_cleared_away():
    def work(processes):
        own = [f"{processes.rank} to {rank}" for rank in range(processes.count)]
        received = processes.deliver(own)
        processes.gather(None)
        return received, processes.count == 1 or processes._store.check(["0/0/to/1"])

    assert in_threads(3, work) == [
        ([f"{sender} to {rank}" for sender in range(3)], False) for rank in range(3)
    ]
    assert Processes().deliver(["to myself"]) == ["to myself"]


def test_work_is_dealt_once_and_whoever_is_free_takes_the_next():
    busy = threading.Event()

    def work(processes):
        own = []
        for number in processes.deal(20):
            own.append(number)
            if number == 0:
                assert busy.wait(60)  # a long piece: the others do the rest meanwhile
            elif number == 19:
                busy.set()
        processes.gather(None)
        return own, list(processes.deal(2))

    dealt = in_threads(3, work)
    assert sorted(number for own, _ in dealt for number in own) == list(range(20))
    assert all(own == sorted(own) for own, _ in dealt)
    assert [0] in [own for own, _ in dealt]
    assert sorted(number for _, again in dealt for number in again) == [0, 1]


def test_what_one_posts_the_others_read():
    def work(processes):
        if processes.rank == 1:
            processes.post("answer", 42)
        return processes.read("answer"), processes.is_posted("answer"), processes.is_posted("question")

    assert in_threads(3, work) == [(42, True, False)] * 3


def test_one_that_fails_ends_the_dealing(monkeypatch):
    monkeypatch.setattr("surgery.processes.SECONDS_TO_LOOK", 0)

    def work(processes):
        for number in processes.deal(1_000_000):
            if number == 5:
                raise ValueError("of my own")

    with pytest.raises((ValueError, SurgeryError), match=r"of my own|failed, so the others stop"):
        in_threads(2, work)


def test_a_folder_that_is_not_the_same_for_all_is_refused(tmp_path):
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    in_threads(2, lambda processes: processes.check_shared(tmp_path))
    with pytest.raises(UsageError, match=r"is not the same folder for process 1.*all machines share"):
        in_threads(2, lambda processes: processes.check_shared(tmp_path / str(processes.rank)))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0", "1"]


def test_accelerate_starts_processes_that_meet(tmp_path):
    """For real, as `accelerate launch -m surgery` does; `--multi_gpu` deals with ranks on CPUs as well."""
    script = tmp_path / "meet.py"
    script.write_text(
        "from surgery.processes import Processes\n"
        "with Processes.join() as processes:\n"
        "    print('met', processes.gather(processes.rank), flush=True)\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(port), str(script)]
    ended = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["met [0, 1]"] * 2


@pytest.mark.parametrize(
    ("rank", "count"),
    [("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")],
)
def test_every_launcher_is_understood_in_its_own_words(monkeypatch, rank, count):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(rank, "3")
    assert place_in_environment() == (0, 1), "a rank alone, as a shell may have it, is no launcher"
    monkeypatch.setenv(count, "4")
    assert place_in_environment() == (3, 4)


def test_process_numbers_that_are_none_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="are no process numbers"):
        Processes.join()
