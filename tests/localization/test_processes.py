"""Processes that meet in a store: what they exchange, how they part, what happens when one fails."""

import os
import socket
import subprocess
import sys

import pytest

from surgery.errors import UsageError
from surgery.localization.processes import Processes

# Large values cross in pieces; every rank sees the same; nobody keeps what all have read.
EXCHANGE = """
from surgery.localization.processes import PIECE_BYTES, Processes
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
from surgery.localization.processes import Processes
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


def run(program, count, *arguments):
    """Start `count` processes as torchrun does, but for its name look-ups: [(exit status, output)]."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in reversed(range(count))
    ]
    ended = [(process.communicate(timeout=120)[0], process.returncode) for process in running]
    return [(status, output) for output, status in reversed(ended)]


def test_every_process_sees_every_value_and_all_part_cleanly():
    ended = run(EXCHANGE, 3)
    assert [status for status, _ in ended] == [0, 0, 0], ended
    assert [f"rank {rank} done" in output for rank, (_, output) in enumerate(ended)] == [True] * 3


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_stops_the_others_instead_of_leaving_them_to_wait(failing):
    ended = run(FAIL, 2, str(failing))
    assert [status for status, _ in ended] == [1, 1]
    assert "of my own" in ended[failing][1]
    assert f"process {failing}: failed, so the others stop" in ended[1 - failing][1]


def test_a_lone_process_exchanges_with_itself():
    with Processes() as processes:
        assert processes.is_main
        assert processes.gather(1) == [1]
        assert processes.from_main("x") == "x"
        assert processes.share([1, 2, 3]) == [1, 2, 3]
    assert Processes(1, 2).share([1, 2, 3]) == [2]


def test_process_numbers_that_are_none_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="are no process numbers"):
        Processes.join()
