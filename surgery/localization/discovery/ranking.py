"""What `scan` found: a record for each prompt, and the ranking."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.localization.discovery.sequential import SequentialTest
from surgery.localization.discovery.training_images import Copies
from surgery.localization.journal import JournalKind
from surgery.model.work import Work


@dataclass(frozen=True)
class ScanRecord:
    """One prompt's score, and whether it lies above the threshold.

    Attributes:
        seeds: how many were looked at; fewer than all where the prompt was found ordinary early.
        copies: near-duplicates of its training image; None where no images were given.
    """

    prompt: str
    score: float
    memorized: bool
    seeds: int
    copies: int | None = None

    def as_json(self) -> dict[str, Any]:
        """One line of the scan file."""
        line = {
            "prompt": self.prompt,
            "score": float(f"{self.score:.6g}"),
            "memorized": self.memorized,
            "seeds": self.seeds,
        }
        return line if self.copies is None else {**line, "copies": self.copies}


OF_SCAN = JournalKind("surgery.scan-journal/1", asdict, lambda line: ScanRecord(**line))


@dataclass(frozen=True)
class Scan:
    """A ranked corpus.

    Attributes:
        records: memorized prompts first, then by score, highest first.
        detector: by name.
        threshold: scores above it count as memorized.
        work: denoiser calls, sample-forwards, seconds of this run, of all processes together.
        test: when a prompt was done.
        copies: what the training images said; None where none were given.
    """

    records: list[ScanRecord]
    detector: str
    threshold: float
    work: Work
    test: SequentialTest
    copies: Copies | None = None

    @property
    def share(self) -> float:
        """The share of prompts above the threshold."""
        return sum(record.memorized for record in self.records) / len(self.records)

    @property
    def seeds_per_prompt(self) -> float:
        """How many seeds were looked at, on average over the prompts."""
        return sum(record.seeds for record in self.records) / len(self.records)
