"""Several processes of one job: as a launcher starts them, or as threads that meet in a store of their own.

Threads are what most tests want: nothing is imported anew, and what each does can be looked at. Each must use
models of its own, as processes do, loaded beforehand: the libraries cannot do that in threads.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from surgery.processes import Processes


def in_threads(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` returns on each of so many processes, by rank; the first error, if one fails."""
    import torch
    from torch.distributed import HashStore

    store = HashStore()

    def run(rank: int) -> Any:
        torch.set_num_threads(1)
        with Processes(rank, count, store) as processes:
            return work(processes)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in range(count)]]


def started(count: int, *words: object) -> list[tuple[int, str]]:
    """Start `python WORDS` so many times as torchrun does, but for its name look-ups: [(status, output)]."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in reversed(range(count))
    ]
    ended = [(process.communicate(timeout=300)[0], process.returncode) for process in running]
    return [(status, output) for output, status in reversed(ended)]
