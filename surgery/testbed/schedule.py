"""What a training run consists of: the variants, and how long each phase trains."""

from __future__ import annotations

from dataclasses import dataclass

VARIANTS = ("planted", "twin", "natural")


@dataclass(frozen=True)
class Schedule:
    """How long each phase trains, in steps, and what else fixes the result."""

    autoencoder_steps: int = 3600
    ordinary_steps: int = 1400
    planted_steps: tuple[int, ...] = (2200, 2000)
    natural_steps: tuple[int, ...] = (900, 1300)
    pictures: int = 12000
    batch: int = 32
    seed: int = 0
    save_every: int = 150

    def variant_steps(self, variant: str) -> tuple[int, ...]:
        """Steps of phase 3, one number for each cycle of the learning rate."""
        return self.natural_steps if variant == "natural" else self.planted_steps
