"""Several processes, started by `torchrun` or `accelerate launch`, working on one job.

The launchers say in the environment which process this is (`surgery.launchers`) and where the first one is;
that is all that is used. The processes exchange nothing but small Python objects, and do it through the store
at which `torch.distributed` lets processes meet. No process group is opened on top of it: gloo's worker
threads may outlive `destroy_process_group`, and one that wants the interpreter while it shuts down aborts a
process whose work is done. Without a launcher there is one process, and nothing here touches
`torch.distributed`.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from surgery.errors import SurgeryError, UsageError
from surgery.launchers import place_in_environment

HOURS_TO_WAIT = 48  # one process may have far longer prompts than the others
MINUTES_TO_MEET = 30  # machines of one job may start some time apart
SECONDS_BETWEEN_CHECKS = 1  # how soon a process sees that another one failed
SECONDS_TO_LOOK = 5  # how long a failed process 0 keeps the store that the others look at
FIRST_PAUSE = 0.001  # of waiting, in seconds
PAUSE_SHARE = 0.05  # of what was waited so far: so much later than need be does a wait end, at most
PIECE_BYTES = 4 * 2**20  # the store takes 8 MiB a value at most
FAILED = "failed"
AGAIN = "run the same command again: it goes on"


@dataclass
class Processes:
    """This process among all; a context manager, so that one that fails tells the others.

    Attributes:
        rank: from 0; process 0 writes the result.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1
    _store: Any = field(default=None, repr=False)
    _exchanges: int = field(default=0, repr=False)
    _posted: dict[str, Any] = field(default_factory=dict, repr=False)  # of a lone process

    @classmethod
    def join(cls) -> Processes:
        """Join the processes that the launcher started, or be the only one.

        Raises:
            SurgeryError: the others cannot be reached.
        """
        rank, count = place_in_environment()
        if count == 1:
            return cls()
        from torch.distributed import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        patience = timedelta(minutes=MINUTES_TO_MEET)
        try:
            store, rank, count = next(rendezvous("env://", rank, count, timeout=patience))
        except (RuntimeError, ValueError) as error:
            raise SurgeryError(
                "the other processes",
                f"cannot be reached ({error})",
                "start with torchrun or accelerate launch",
            ) from None
        return cls(rank, count, PrefixStore("surgery", store))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the result."""
        return self.rank == 0

    def device(self, wanted: str | None) -> str | None:
        """The device of this process: on CUDA, one GPU per process of a machine."""
        if self.count == 1 or wanted not in (None, "cuda"):
            return wanted
        import torch

        if not torch.cuda.is_available():
            return wanted
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"

    def deal(self, count: int) -> Iterator[int]:
        """The numbers below `count` that this process works on: each goes to one process, rising.

        Whoever is free takes the next, so that long and short pieces of work spread evenly. What comes of a
        piece must not depend on who works on it. Every process must call this at the same point of its work.

        Raises:
            SurgeryError: another process failed: work that nobody will gather is not begun.
        """
        if self.count == 1:
            yield from range(count)
            return
        key = self._next_key()
        while True:
            with _reached():
                self._stop_after_a_failure()
                number = self._store.add(f"{key}/dealt", 1) - 1
            if number >= count:
                return
            yield number

    def post(self, key: str, value: Any) -> None:
        """Put a value where every process can read it; a key is posted once."""
        if self.count == 1:
            self._posted[key] = value
            return
        with _reached():
            self._send(f"posted/{key}", value)

    def read(self, key: str) -> Any:
        """A posted value; waits for it.

        Raises:
            SurgeryError: another process failed.
        """
        if self.count == 1:
            return self._posted[key]
        with _reached():
            return self._receive(f"posted/{key}")

    def is_posted(self, key: str) -> bool:
        """Whether a value was posted."""
        if self.count == 1:
            return key in self._posted
        with _reached():
            return bool(self._store.check([f"posted/{key}"]))

    def check_shared(self, folder: Path) -> None:
        """Refuse a folder that is not one and the same for all processes.

        Raises:
            UsageError: what process 0 writes there is not seen by this process.
        """
        if self.count == 1:
            return
        name = self.from_main(f".shared-{os.getpid()}-{time.time_ns()}")
        if self.is_main:
            (folder / name).touch()
        self.gather(None)
        seen = (folder / name).exists()
        missing = [rank for rank, one in enumerate(self.gather(seen)) if not one]
        if self.is_main:
            (folder / name).unlink()
        if missing:
            raise UsageError(
                folder, f"is not the same folder for process {missing[0]}", "give one that all machines share"
            )

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, on every process.

        Raises:
            SurgeryError: another process failed, or did not come within two days.
        """
        return self._exchange(value, tuple(range(self.count)))

    def from_main(self, value: Any) -> Any:
        """The value that process 0 passed in, on every process.

        Raises:
            SurgeryError: another process failed, or did not come within two days.
        """
        return self._exchange(value, (0,))[0]

    def deliver(self, values: Sequence[Any]) -> list[Any]:
        """What every process has for this one, by its rank; `values[rank]` goes to that process alone.

        Raises:
            SurgeryError: another process failed, or did not come within two days.
        """
        if self.count == 1:
            return list(values)
        exchange, ranks = self._next_key(), range(self.count)
        with _reached():
            for rank in ranks:
                if rank != self.rank:
                    self._send(f"{exchange}/{self.rank}/to/{rank}", values[rank])
            keys = [f"{exchange}/{rank}/to/{self.rank}" for rank in ranks]
            others = {rank: self._receive(keys[rank], clear=True) for rank in ranks if rank != self.rank}
        return [others.get(rank, values[rank]) for rank in ranks]

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.count == 1:
            return
        if kind is not None:
            self._tell_of_failure()
            return
        # Process 0 may host the store: it goes last.
        self._store.set(f"leaving/{self.rank}", b"")
        if self.is_main:
            self._wait([f"leaving/{rank}" for rank in range(self.count)])

    def _exchange(self, value: Any, senders: tuple[int, ...]) -> list[Any]:
        if self.count == 1:
            return [value]
        exchange = self._next_key()
        with _reached():
            if self.rank in senders:
                self._send(f"{exchange}/{self.rank}", value)
            received = [
                value if sender == self.rank else self._receive(f"{exchange}/{sender}") for sender in senders
            ]
            # The last one to have read it all clears it away: the store lives in process 0's memory.
            if self._store.add(f"{exchange}/read", 1) == self.count:
                for sender in senders:
                    self._clear(f"{exchange}/{sender}")
        return received

    def _next_key(self) -> str:
        self._exchanges += 1
        return str(self._exchanges - 1)

    def _send(self, key: str, value: Any) -> None:
        whole = pickle.dumps(value)
        pieces = range(0, len(whole), PIECE_BYTES)
        for number, start in enumerate(pieces):
            self._store.set(f"{key}/{number}", whole[start : start + PIECE_BYTES])
        self._store.set(key, str(len(pieces)))  # last: whoever sees it finds the pieces

    def _receive(self, key: str, clear: bool = False) -> Any:
        self._wait([key])
        count = int(self._store.get(key))
        whole = b"".join(self._store.get(f"{key}/{number}") for number in range(count))
        if clear:
            self._clear(key)
        return pickle.loads(whole)

    def _clear(self, key: str) -> None:
        for number in range(int(self._store.get(key))):
            self._store.delete_key(f"{key}/{number}")
        self._store.delete_key(key)

    def _wait(self, keys: list[str]) -> None:
        # Asked again and again: the store's own waiting warns on stderr whenever it takes long.
        started = time.monotonic()
        while not self._store.check(keys):
            self._stop_after_a_failure()
            waited = time.monotonic() - started
            if waited > HOURS_TO_WAIT * 3600:
                cause, way_out = f"did not come in {HOURS_TO_WAIT} hours", f"see why, then {AGAIN}"
                raise SurgeryError("the other processes", cause, way_out)
            time.sleep(min(max(FIRST_PAUSE, PAUSE_SHARE * waited), SECONDS_BETWEEN_CHECKS))

    def _stop_after_a_failure(self) -> None:
        if self._store.check([FAILED]):
            failed = f"process {self._store.get(FAILED).decode()}"
            raise SurgeryError(failed, "failed, so the others stop", f"see its message, then {AGAIN}")

    def _tell_of_failure(self) -> None:
        with suppress(RuntimeError):  # whoever hosts the store is gone: there is nobody to tell
            self._store.set(FAILED, str(self.rank))
            if self.is_main:
                # The store dies with this process; a moment's wait lets the others read why.
                time.sleep(SECONDS_TO_LOOK)


@contextmanager
def _reached() -> Iterator[None]:
    """Say in one line that the others are out of reach."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed.DistError and its kin
        raise SurgeryError("the other processes", f"are out of reach ({error})", AGAIN) from None
