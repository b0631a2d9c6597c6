"""The bench: two models side by side, and how a unit of work is measured once and never again.

A unit is kept in the store and skipped when the audit goes on after a kill. A stage hands in all its units at
once, as jobs; they are dealt out to the processes, whoever is free takes the next, and what was found is
gathered. A unit is measured by one process from beginning to end, so that its numbers do not depend on how
many there are. Before it starts, its cost in sample-forwards is asked of the budget; a unit that does not
fit is missing, and so is everything that depends on it. The order of an audit is that in which a short budget
tells most: replication of every prompt, ordinary prompts, the attack on every control image, then prompt
after prompt on PATCHED and on SOURCE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from surgery.auditing.budget import Budget
from surgery.auditing.ledger import Ledger
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import Pictures, Store
from surgery.auditing.units import Cost, Unit
from surgery.measures.similarity import Similarity
from surgery.model.pipeline import LiveModel
from surgery.processes import Processes

PICTURES_KEPT = 4  # of each prompt and model, for the report


@dataclass(frozen=True)
class Job:
    """A unit that is wanted.

    Attributes:
        kind: its class.
        key: where it is kept.
        cost: the sample-forwards that it takes at most.
        measure: makes it, with the pictures to keep beside it.
        what: in the progress bar.
        group: where a job of a group does not fit the budget, no later one of it is begun; "" for none.
    """

    kind: type[Unit]
    key: str
    cost: int
    measure: Callable[[], tuple[Unit, Pictures]]
    what: str
    group: str = ""


@dataclass
class Bench:
    """Two models side by side, and how they are measured.

    Attributes:
        twin: a model like SOURCE that never saw the images, if there is one: the floor of every attack.
        base: the public model that SOURCE was made from, if there is one.
        processes: this process among those that share the work.
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
    processes: Processes = field(default_factory=Processes)
    _plans: int = 0

    @property
    def models(self) -> dict[str, LiveModel]:
        """The models that prompts are attacked on, PATCHED first: it is the one that is asked about."""
        found = {"patched": self.patched, "source": self.source}
        return found if self.twin is None else {**found, "twin": self.twin}

    @property
    def donor(self) -> LiveModel:
        """Whose parts may be put into PATCHED: the public base model where one was given, else SOURCE."""
        return self.source if self.base is None else self.base

    def measured(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """The units of all jobs that the budget allows, by their keys: the same on every process.

        Raises:
            SurgeryError: a measurement, or another process, failed; what was finished is kept.
        """
        found: dict[str, Any] = self.processes.from_main(self._kept(jobs))
        todo = [job for job in jobs if job.key not in found]
        self._plans += 1
        ledger = Ledger(self.processes, f"plan-{self._plans}", self.budget.limit, self.budget.spent)
        before, own = self.budget.work.unet_sample_forwards, {}
        shown = not self.quiet and self.processes.is_main
        with tqdm(total=len(jobs), unit="unit", disable=None if shown else True) as bar:
            for number in self.processes.deal(len(todo)):
                job = todo[number]
                bar.set_description(job.what, refresh=False)
                bar.update(len(jobs) - len(todo) + number - bar.n)
                if ledger.allows(number, job.cost, job.group):
                    own[job.key] = unit = self._measured(job)
                    ledger.book(number, unit.cost.sample_forwards)
            bar.update(len(jobs) - bar.n)
        spent = self.budget.work.unet_sample_forwards - before
        for units, forwards in self.processes.gather((own, spent)):
            found.update(units)
            self.budget.elsewhere += forwards
        self.budget.elsewhere -= spent
        return found

    def _kept(self, jobs: Sequence[Job]) -> dict[str, Unit]:
        """What the store holds of them. Only process 0 looks: not all see a file at the same moment."""
        if not self.processes.is_main:
            return {}
        units = {job.key: self.store.load(job.kind, job.key) for job in jobs}
        return {key: unit for key, unit in units.items() if unit is not None}

    def _measured(self, job: Job) -> Unit:
        before, started = self.budget.work.unet_sample_forwards, time.perf_counter()
        unit, pictures = job.measure()
        spent = self.budget.work.unet_sample_forwards - before
        unit = replace(unit, cost=Cost(spent, round(time.perf_counter() - started, 3)))
        self.store.save(job.key, unit, pictures)
        return unit
