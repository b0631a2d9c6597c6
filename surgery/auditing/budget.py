"""What the audit spends, in UNet sample-forwards, and the limit it must not pass.

Forwards are counted where they happen, by a hook on the denoiser, so that nothing that runs the model (the
pipeline's own sampler included) can go uncounted. Before a piece of work starts, its cost is asked for
(`surgery.auditing.ledger`); work that does not fit is not started, and the audit reports it as not tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from surgery.model.pipeline import LiveModel
from surgery.model.work import Work


@contextmanager
def counted(model: LiveModel, work: Work) -> Iterator[None]:
    """Inside, every run of the model's denoiser is booked in `work` under its present stage."""

    def count(module: torch.nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        sample = keywords["sample"] if "sample" in keywords else arguments[0]
        work.count(int(sample.shape[0]))

    handle = model.denoiser.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class Budget:
    """A limit on sample-forwards.

    Args:
        limit: the most sample-forwards of the whole audit; None for no limit.

    Attributes:
        work: what this process spent so far in this run.
        elsewhere: what the other processes spent.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.work = Work()
        self.elsewhere = 0

    @property
    def spent(self) -> int:
        """The sample-forwards of all processes, as far as they told of them."""
        return self.work.unet_sample_forwards + self.elsewhere
