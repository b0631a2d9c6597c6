"""Pieces of a hardening, dealt out to processes so that every process has what one alone would have.

A piece is what the denoiser answers by itself: the attack on as many images as fill one of its calls, a batch
of recall or of paths under attack, one ordinary prompt. It is worked on by one process from beginning to end,
so that no number depends on how many there are: batches are made up alike. What came of it reaches every
process, and so does what it cost.

Few images fill few calls. Where there are fewer groups than processes, a smaller `--batch-size` makes more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from surgery.hardening.settings import HardenSettings
from surgery.model.work import Work
from surgery.processes import Processes

Found = TypeVar("Found")


@dataclass
class Dealer:
    """Deals out pieces, and books what they cost.

    Attributes:
        work: what all processes spent, the same on each.
        processes: this process among them.
    """

    work: Work = field(default_factory=Work)
    processes: Processes = field(default_factory=Processes)

    def all_of(self, pieces: Sequence[Callable[[], Found]]) -> list[Found]:
        """What comes of every piece, in their order; tensors must lie on the CPU.

        Raises:
            SurgeryError: another process failed.
        """
        with self.booked():
            own = {number: pieces[number]() for number in self.processes.deal(len(pieces))}
        found: dict[int, Found] = {}
        for results in self.processes.gather(own):
            found.update(results)
        return [found[number] for number in range(len(pieces))]

    @contextmanager
    def booked(self) -> Iterator[None]:
        """What any process spends inside is booked on all of them; no one leaves before the others are done.

        Raises:
            SurgeryError: another process failed.
        """
        before = self.work.unet_sample_forwards
        yield
        spent = self.work.unet_sample_forwards - before
        for rank, forwards in enumerate(self.processes.gather(spent)):
            if rank != self.processes.rank:
                self.work.add(Work(unet_sample_forwards=forwards))


def groups_of(images: int, settings: HardenSettings) -> list[slice]:
    """As many images together as the samples of one step of an attack fill one call of the denoiser with."""
    together = max(1, settings.batch_size // settings.attack_batch)
    return [slice(start, min(start + together, images)) for start in range(0, images, together)]
