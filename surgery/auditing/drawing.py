"""How pictures are drawn, and what that costs. Without torch, so that settings can speak of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: denoising steps, classifier-free guidance (1: off), pictures per batch."""

    steps: int = 50
    guidance: float = 7.5
    batch_size: int = 16

    def forwards(self, pictures: int) -> int:
        """The sample-forwards that so many pictures cost (schedulers of second order take a few more)."""
        return pictures * self.steps * (2 if self.guidance > 1 else 1)
