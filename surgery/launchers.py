"""Which of how many processes this is, as the program that started it says in the environment.

`torchrun` and `accelerate launch` set RANK and WORLD_SIZE; mpirun, through which `accelerate` starts
processes on CPUs, says the same in words of its own.
"""

from __future__ import annotations

import os

from surgery.errors import UsageError

# what each launcher calls the rank and the number of processes: torchrun and accelerate, Open MPI, Intel MPI
NAMES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


def place_in_environment() -> tuple[int, int]:
    """The rank of this process and how many there are; (0, 1) without a launcher.

    Raises:
        UsageError: the launcher's words are no numbers.
    """
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
