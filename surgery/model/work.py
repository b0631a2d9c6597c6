"""What was spent: UNet calls, UNet sample-forwards and seconds, by stage.

One UNet CALL is one run of the denoiser over a batch; it costs as many SAMPLE-FORWARDS as the batch has
samples (twice as many with guidance). A run whose first blocks are served from a cache still counts in full:
the figure is an upper bound of the work, comparable between strategies and machines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Work:
    """Counts of one prompt or of a whole run; `seconds` and `forwards_by_stage` are keyed by stage name."""

    unet_calls: int = 0
    unet_sample_forwards: int = 0
    forwards_by_stage: dict[str, int] = field(default_factory=dict)
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    stage_now: str = "other"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book everything counted inside under `name`, and the time that it took."""
        before, self.stage_now = self.stage_now, name
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds_by_stage[name] = self.seconds_by_stage.get(name, 0.0) + elapsed
            self.stage_now = before

    def count(self, samples: int) -> None:
        """Count one UNet call over `samples` samples."""
        self.unet_calls += 1
        self.unet_sample_forwards += samples
        self.forwards_by_stage[self.stage_now] = self.forwards_by_stage.get(self.stage_now, 0) + samples

    def add(self, other: Work) -> None:
        """Book what was counted elsewhere, in another process for one."""
        self.unet_calls += other.unet_calls
        self.unet_sample_forwards += other.unet_sample_forwards
        for stage, forwards in other.forwards_by_stage.items():
            self.forwards_by_stage[stage] = self.forwards_by_stage.get(stage, 0) + forwards
        for stage, seconds in other.seconds_by_stage.items():
            self.seconds_by_stage[stage] = self.seconds_by_stage.get(stage, 0.0) + seconds

    @property
    def seconds(self) -> float:
        """Seconds over all stages."""
        return sum(self.seconds_by_stage.values())

    def as_json(self) -> dict[str, Any]:
        """The `work` object of `neurons.json`: calls, sample-forwards and seconds, in total and by stage."""
        return {
            "unet_calls": self.unet_calls,
            "unet_sample_forwards": self.unet_sample_forwards,
            "seconds": round(self.seconds, 4),
            "sample_forwards_by_stage": dict(self.forwards_by_stage),
            "seconds_by_stage": {stage: round(value, 4) for stage, value in self.seconds_by_stage.items()},
        }


def add_work(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several `work` objects, as `Work.as_json` writes them."""
    total: dict[str, Any] = {"unet_calls": 0, "unet_sample_forwards": 0, "seconds": 0.0}
    for by_stage in ("sample_forwards_by_stage", "seconds_by_stage"):
        total[by_stage] = {}
    for part in parts:
        for name in ("unet_calls", "unet_sample_forwards", "seconds"):
            total[name] += part[name]
        for by_stage in ("sample_forwards_by_stage", "seconds_by_stage"):
            for stage, value in part.get(by_stage, {}).items():
                total[by_stage][stage] = total[by_stage].get(stage, 0) + value
    total["seconds"] = round(total["seconds"], 4)
    total["seconds_by_stage"] = {stage: round(value, 4) for stage, value in total["seconds_by_stage"].items()}
    return total
