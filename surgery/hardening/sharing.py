"""Training steps shared by several processes, to the very weights of one.

Every process holds the whole student and takes the same chance. Of the terms of a step, the last ones go to a
process each and the rest to the first; their gradients meet on every process and are added up in the order of
the terms, which is the order in which one process adds them. A step's weights are therefore those of one
process, bit by bit, on machines that compute alike.

Gradients cross at every step, so they must be small beside what they cost: above `LARGEST` trained numbers
every process trains alike by itself. The result is the same. Attacks and the gate are dealt out in any case.

Accelerators may round differently from run to run. After training the processes compare their students; where
they differ, all take that of process 0 (`agree`). Blinding, which comes before, needs no such comparison: a
layer's new weights come from one process (`surgery.hardening.blinding`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch

from surgery.auditing.identity import digest
from surgery.hardening.dealing import Dealer
from surgery.model.work import Work

LARGEST = 16_000_000  # float32 numbers: 64 MB

Backward = Callable[[], float]  # adds the gradient of a term to what is there; its value
Term = tuple[str, Backward]


@dataclass
class Sharing:
    """This process among those that train one student; `dealer` knows them, and books what they spend."""

    dealer: Dealer = field(default_factory=Dealer)

    def values(self, terms: Sequence[Term], parameters: Sequence[torch.Tensor]) -> list[tuple[str, float]]:
        """Go backward through all terms of a step, here or elsewhere; their values.

        Afterward every parameter has the gradient of all terms, on every process.

        Raises:
            SurgeryError: another process failed.
        """
        processes, work = self.dealer.processes, self.dealer.work
        count = min(processes.count, len(terms))
        if count == 1 or sum(parameter.numel() for parameter in parameters) > LARGEST:
            return [(name, backward()) for name, backward in terms]
        before = work.unet_sample_forwards
        places = [max(0, number - (len(terms) - count)) for number in range(len(terms))]
        own = [
            backward() for place, (_, backward) in zip(places, terms, strict=True) if place == processes.rank
        ]
        gradient = _flat(parameters) if own else None
        spent = work.unet_sample_forwards - before
        values, total = [], None
        for rank, (some, one, forwards) in enumerate(processes.gather((own, gradient, spent))):
            values += some
            if one is not None:
                total = one if total is None else total + one
            if rank != processes.rank:
                work.add(Work(unet_sample_forwards=forwards))
        assert total is not None
        start = 0
        for parameter in parameters:
            part = torch.from_numpy(total[start : start + parameter.numel()]).view_as(parameter)
            parameter.grad = part.to(parameter.device)
            start += parameter.numel()
        return [(name, value) for (name, _), value in zip(terms, values, strict=True)]

    def agree(self, content: Callable[[], dict[str, Any]], restore: Callable[[dict[str, Any]], None]) -> None:
        """Where the students of the processes differ, all take process 0's.

        Args:
            content: weights and optimizer of this process, tensors by any names.
            restore: makes them those given.
        """
        processes = self.dealer.processes
        if processes.count == 1:
            return
        own = content()
        seen = processes.gather(digest(*(own["weights"][name] for name in sorted(own["weights"]))))
        if any(one != seen[0] for one in seen):
            restore(processes.from_main(own if processes.is_main else None))


def _flat(parameters: Sequence[torch.Tensor]) -> numpy.ndarray[Any, numpy.dtype[numpy.float32]]:
    """All gradients one after another; zeros where a term did not reach a parameter."""
    parts = [
        torch.zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten().float().cpu()
        for parameter in parameters
    ]
    return torch.cat(parts).numpy()
