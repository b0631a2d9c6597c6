"""Several processes, started by `torchrun` or `accelerate launch`, working on one corpus.

The launchers set RANK, WORLD_SIZE and the address of the first process in the environment (mpirun, through
which `accelerate` starts processes on CPUs, says the same in words of its own); that is all that is used. The
processes exchange nothing but small Python objects over gloo, so CPUs and any accelerators will do. Without a
launcher there is one process, and nothing here touches `torch.distributed`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from surgery.errors import SurgeryError, UsageError

HOURS_TO_WAIT = 48  # one process may have far longer prompts than the others
# what each launcher calls the rank and the number of processes: torchrun and accelerate, Open MPI, Intel MPI
NAMES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        rank: from 0; process 0 writes the result.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Join the processes that the launcher started, or be the only one.

        Raises:
            SurgeryError: the others cannot be reached.
        """
        rank, count = _place_in_environment()
        if count == 1:
            return cls()
        from datetime import timedelta

        import torch.distributed as distributed

        if not distributed.is_initialized():
            try:
                distributed.init_process_group(
                    "gloo", rank=rank, world_size=count, timeout=timedelta(hours=HOURS_TO_WAIT)
                )
            except (RuntimeError, ValueError) as error:
                raise SurgeryError(
                    "the other processes",
                    f"cannot be reached ({error})",
                    "start with torchrun or accelerate launch",
                ) from None
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process writes the result."""
        return self.rank == 0

    def device(self, wanted: str | None) -> str | None:
        """The device of this process: on CUDA, one GPU per process of a machine."""
        on_cuda = wanted == "cuda" or (wanted is None and torch.cuda.is_available())
        if self.count == 1 or not on_cuda:
            return wanted
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"

    def share(self, items: list[Any]) -> list[Any]:
        """The items of this process: every `count`-th, so that long and short ones spread evenly."""
        return items[self.rank :: self.count]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, on every process."""
        if self.count == 1:
            return [value]
        import torch.distributed as distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """The value that process 0 passed in, on every process."""
        if self.count == 1:
            return value
        import torch.distributed as distributed

        holder = [value]
        distributed.broadcast_object_list(holder, src=0)
        return holder[0]

    def leave(self) -> None:
        """Take leave of the others; needed once, at the end."""
        if self.count > 1:
            import torch.distributed as distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()


def _place_in_environment() -> tuple[int, int]:
    for rank, count in NAMES:
        if rank in os.environ and count in os.environ:
            try:
                return int(os.environ[rank]), int(os.environ[count])
            except ValueError:
                raise UsageError(
                    f"{rank}={os.environ[rank]}, {count}={os.environ[count]}",
                    "are no process numbers",
                    "start with torchrun or accelerate launch",
                ) from None
    return 0, 1
