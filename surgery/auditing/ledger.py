"""Which pieces of a plan fit into the budget: the same ones whatever the number of processes.

One process asks for piece after piece, and knows by then what all earlier ones took. Several have pieces
under way whose cost is not known yet. So that they say what one would say,

1. the pieces are asked for in the order of the plan: whoever is dealt one waits for the answers before it;
2. a piece under way counts with the most that it can take: what fits even so, fits;
3. what does not is asked again when the next piece under way has ended; with none under way, the answer is
   that of one process.

Without a limit everything fits, and nobody asks or waits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from surgery.processes import Processes


@dataclass(frozen=True)
class Answer:
    """Whether a piece fits; `cost` is the most that it can take, `group` those it belongs to."""

    fits: bool
    cost: int
    group: str


@dataclass
class Ledger:
    """The answers of one plan.

    Attributes:
        name: of the plan: another for each.
        limit: the most sample-forwards; None for no limit.
        spent: those that were spent before the plan, by all processes.
    """

    processes: Processes
    name: str
    limit: int | None
    spent: int
    _answers: list[Answer] = field(default_factory=list)
    _taken: dict[int, int] = field(default_factory=dict)

    def allows(self, number: int, cost: int, group: str = "") -> bool:
        """Whether piece `number` fits. Each piece is asked for once, by the process that it was dealt to.

        Args:
            cost: the sample-forwards that it takes at most.
            group: where a piece of a group does not fit, no later one of it is begun; "" for none.

        Raises:
            SurgeryError: another process failed.
        """
        if self.limit is None:
            return True
        while len(self._answers) < number:
            self._answers.append(self.processes.read(f"{self.name}/{len(self._answers)}"))
        refused = {one.group for one in self._answers if not one.fits and one.group}
        answer = Answer(group not in refused and self._fits(number, cost, self.limit), cost, group)
        self.processes.post(f"{self.name}/{number}", answer)
        self._answers.append(answer)
        return answer.fits

    def book(self, number: int, forwards: int) -> None:
        """Say what a piece took."""
        if self.limit is not None:
            self.processes.post(f"{self.name}/{number}/took", forwards)

    def _fits(self, number: int, cost: int, limit: int) -> bool:
        while True:
            under_way = [place for place, one in enumerate(self._answers[:number]) if one.fits]
            under_way = [place for place in under_way if not self._has_ended(place)]
            at_most = sum(self._answers[place].cost for place in under_way)
            if self.spent + sum(self._taken.values()) + at_most + cost <= limit:
                return True
            if not under_way:
                return False
            self._taken[under_way[0]] = self.processes.read(self._took(under_way[0]))

    def _has_ended(self, number: int) -> bool:
        if number not in self._taken and self.processes.is_posted(self._took(number)):
            self._taken[number] = self.processes.read(self._took(number))
        return number in self._taken

    def _took(self, number: int) -> str:
        return f"{self.name}/{number}/took"
