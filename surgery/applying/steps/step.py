"""What a step is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from surgery.applying.run import Run


@dataclass(frozen=True)
class Cost:
    """What a step would take.

    Attributes:
        forwards: UNet sample-forwards; None where none are made.
        bound: `at most`, `at least` or "", where the number is exact.
        bytes: that are written.
        note: for people.
    """

    forwards: int | None = None
    bound: str = ""
    bytes: int = 0
    note: str = ""


class Step(ABC):
    """One step of a recipe. It holds nothing: all it knows comes from the run.

    Attributes:
        name: in the ledger and the table.
    """

    name: ClassVar[str]

    def wanted(self, run: Run) -> bool:
        """Whether the recipe asks for it."""
        return True

    @abstractmethod
    def inputs(self, run: Run) -> dict[str, Any]:
        """Everything that the result depends on, as JSON values by name."""

    def outputs(self, run: Run) -> list[Path]:
        """The files that it leaves."""
        return []

    def left(self, run: Run) -> dict[str, str | None]:
        """What it left, by name and hash: compared with what the ledger has, before it is skipped."""
        return {str(path): run.ledger.hashes.of(path) for path in self.outputs(run)}

    @abstractmethod
    def do(self, run: Run) -> dict[str, Any]:
        """Do it, going on from where a killed run stopped; what it found, as JSON values.

        Raises:
            GateError: a gate said no, and no later step makes sense.
        """

    def is_complete(self, facts: Mapping[str, Any]) -> bool:
        """Whether it came to its end; else the next run goes on with it."""
        return True

    def clear(self, run: Run) -> None:
        """Remove what a run with other inputs left unfinished, or what was tampered with."""
        return

    @abstractmethod
    def cost(self, run: Run) -> Cost:
        """What it would take, before any work."""

    @abstractmethod
    def says(self, facts: Mapping[str, Any]) -> str:
        """What it found, in a few words."""
