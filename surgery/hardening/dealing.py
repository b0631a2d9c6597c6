"""Pieces of a hardening, dealt out to processes so that every process has what one alone would have.

A piece is what the denoiser answers by itself: the attack on as many images as fill one of its calls, a batch
of recall or of paths, one ordinary prompt. It is worked on by one process from beginning to end, so that no
number depends on how many there are: batches are made up alike. What came of it reaches every process, and so
does what it cost. Whoever is free takes the next piece: the long ones should come first.

What came of the pieces crosses in bundles of about `BUNDLE_BYTES`, for the store between the processes lies
in the memory of one of them.

Few images fill few calls. Where there are fewer groups than processes, a smaller `--batch-size` makes more.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from surgery.hardening.settings import HardenSettings
from surgery.model.work import Work
from surgery.processes import Processes

BUNDLE_BYTES = 64_000_000  # of what processes send each other at once

Found = TypeVar("Found")
Made = TypeVar("Made")
Name = TypeVar("Name")


@dataclass(frozen=True)
class Job(Generic[Found, Made]):
    """Work that may be dealt out.

    Attributes:
        pieces: none needs what comes of another; tensors that come of them must lie on the CPU.
        made_of: what is made of all that came of them, in their order; the denoiser is not asked there.
    """

    pieces: Sequence[Callable[[], Found]]
    made_of: Callable[[list[Found]], Made]

    def alone(self) -> Made:
        """The whole of it, here."""
        return self.made_of([piece() for piece in self.pieces])


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
        if self.processes.count == 1:
            return [piece() for piece in pieces]
        with self.booked():
            own = {number: pickle.dumps(pieces[number]()) for number in self.processes.deal(len(pieces))}
        sizes: dict[int, int] = {}
        for some in self.processes.gather({number: len(whole) for number, whole in own.items()}):
            sizes.update(some)
        found: dict[int, Found] = {}
        for bundle in bundles({number: sizes[number] for number in range(len(pieces))}):
            sent = {number: own.pop(number) for number in bundle if number in own}
            for received in self.processes.gather(sent):
                found.update({number: pickle.loads(whole) for number, whole in received.items()})
        return [found[number] for number in range(len(pieces))]

    def made_of(self, *jobs: Job[Any, Any]) -> list[Any]:
        """What each job makes, their pieces dealt out together.

        Raises:
            SurgeryError: another process failed.
        """
        found = iter(self.all_of([piece for job in jobs for piece in job.pieces]))
        return [job.made_of([next(found) for _ in job.pieces]) for job in jobs]

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


def bundles(sizes: Mapping[Name, int]) -> Iterator[list[Name]]:
    """Names in their order, as many together as fit into `BUNDLE_BYTES`, one at least."""
    bundle: list[Name] = []
    size = 0
    for name, one in sizes.items():
        if bundle and size + one > BUNDLE_BYTES:
            yield bundle
            bundle, size = [], 0
        bundle.append(name)
        size += one
    if bundle:
        yield bundle


def groups_of(images: int, settings: HardenSettings) -> list[slice]:
    """As many images together as the samples of one step of an attack fill one call of the denoiser with."""
    together = max(1, settings.batch_size // settings.attack_batch)
    return [slice(start, min(start + together, images)) for start in range(0, images, together)]
