"""The bench: two models side by side, and how a unit of work is measured once and never again.

A unit is kept in the store and skipped when the audit goes on after a kill. Before it starts, its cost in
sample-forwards is asked of the budget; a unit that does not fit is None, and so is everything that depends on
it. The order of an audit is that in which a short budget tells most: replication of every prompt, ordinary
prompts, the attack on every control image, then prompt after prompt on PATCHED and on SOURCE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from tqdm import tqdm

from surgery.auditing.budget import Budget
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import AnyUnit, Pictures, Store
from surgery.auditing.units import Cost
from surgery.model.pipeline import LiveModel

PICTURES_KEPT = 4  # of each prompt and model, for the report
Item = TypeVar("Item")


@dataclass
class Bench:
    """Two models side by side, and how they are measured.

    Attributes:
        twin: a model like SOURCE that never saw the images, if there is one: the floor of every attack.
        base: the public model that SOURCE was made from, if there is one.
    """

    source: LiveModel
    patched: LiveModel
    settings: AuditSettings
    similarity: Similarity
    store: Store
    budget: Budget
    quiet: bool = False
    twin: LiveModel | None = None
    base: LiveModel | None = None

    @property
    def models(self) -> dict[str, LiveModel]:
        """The models that prompts are attacked on, PATCHED first: it is the one that is asked about."""
        found = {"patched": self.patched, "source": self.source}
        return found if self.twin is None else {**found, "twin": self.twin}

    @property
    def donor(self) -> LiveModel:
        """Whose parts may be put into PATCHED: the public base model where one was given, else SOURCE."""
        return self.source if self.base is None else self.base

    def unit(
        self, kind: type[AnyUnit], key: str, cost: int, measure: Callable[[], tuple[AnyUnit, Pictures]]
    ) -> AnyUnit | None:
        """The unit from the store, or measured now, or None where the budget does not allow it.

        Args:
            kind: its class.
            key: where it is kept.
            cost: the sample-forwards that it will take.
            measure: makes it, with the pictures to keep beside it.
        """
        found = self.store.load(kind, key)
        if found is not None:
            return found
        if not self.budget.allows(cost):
            return None
        before, started = self.budget.work.unet_sample_forwards, time.perf_counter()
        unit, pictures = measure()
        spent = self.budget.work.unet_sample_forwards - before
        unit = replace(unit, cost=Cost(spent, round(time.perf_counter() - started, 3)))
        self.store.save(key, unit, pictures)
        return unit

    def progress(self, items: Iterable[Item], what: str, unit: str) -> Iterable[Item]:
        """The items, with a progress bar on stderr where that is a terminal and `quiet` is not set."""
        bar: Iterable[Item] = tqdm(items, what, unit=unit, disable=self.quiet or None)
        return bar
