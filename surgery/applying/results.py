"""What came of a recipe: one line a step, the gates, and the exit status that a script sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.applying.run import Run
from surgery.applying.sections import NO_GATE
from surgery.errors import GateError

DONE, UNCHANGED = "done", "unchanged"
NOT_AUDITED = (
    "NOTHING WAS AUDITED: nobody looked whether the images still come out of these weights; "
    "add [audit] to the recipe"
)


@dataclass(frozen=True)
class StepResult:
    """One step.

    Attributes:
        name: of the step.
        state: `done`, or `unchanged` where an earlier run had done it and nothing has changed since.
        seconds: that it took, in that run.
        says: what it found, in a few words.
        facts: the same as JSON values.
    """

    name: str
    state: str
    seconds: float
    says: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """One condition of publishing.

    Attributes:
        name: `localize`, or `audit`.
        passed: whether it holds.
        says: why, or why not.
    """

    name: str
    passed: bool
    says: str


@dataclass(frozen=True)
class Applied:
    """What `apply_recipe` did.

    Attributes:
        output: the folder that may be published if `passed`; None where no prompt is memorized, so that
            nothing was written.
        work: the working folder: private.
        neurons_file: the neurons; private, it quotes prompts.
        steps: in their order.
        gates: all that were asked.
        repo_id: where the recipe wants the folder published.
    """

    output: Path | None
    work: Path
    neurons_file: Path
    steps: tuple[StepResult, ...]
    gates: tuple[Gate, ...]
    repo_id: str | None = None

    @property
    def passed(self) -> bool:
        """Whether no gate said no."""
        return all(gate.passed for gate in self.gates)

    @property
    def exit_status(self) -> int:
        """0, or 3 where a gate said no."""
        return 0 if self.passed else GateError.exit_status

    def facts(self, step: str) -> Mapping[str, Any]:
        """What a step found; empty where it was not asked for."""
        return next((one.facts for one in self.steps if one.name == step), {})

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        found = self.facts("localize") or self.facts("neurons")
        return {
            "output": None if self.output is None else str(self.output),
            "work": str(self.work),
            "neurons": found["neurons"],
            "prompts": found["prompts"],
            "unresolved": found["unresolved"],
            "unconfirmed": found["unconfirmed"],
            "verdict": self.facts("audit").get("phrase"),
            "passed": self.passed,
            "gates": [asdict(gate) for gate in self.gates],
            "steps": [asdict(step) for step in self.steps],
            "repo_id": self.repo_id,
        }


def gates_of(run: Run) -> tuple[Gate, ...]:
    """The gates of a run, once its steps are done. Those that stop it raise where they stand."""
    gates = [_localized(run)]
    if "patch" in run.facts:
        gates.append(_audited(run))
    return tuple(gates)


def _localized(run: Run) -> Gate:
    facts = run.facts.get("localize") or run.facts["neurons"]
    left = {word: facts[word] for word in ("unresolved", "unconfirmed") if facts[word]}
    if not left:
        return Gate("localize", True, "no memorized prompt is left unresolved or unconfirmed")
    said = " and ".join(f"{count} {word}" for word, count in left.items())
    if run.request.recipe.harden is not None and "harden" in run.facts:
        return Gate("localize", True, f"{said} prompts were hardened: the audit judges them")
    return Gate("localize", False, f"{said} prompts stay memorized")


def _audited(run: Run) -> Gate:
    recipe = run.request.recipe
    if recipe.audit is None:
        return Gate("audit", recipe.audit_declined, NOT_AUDITED)
    facts, required = run.facts["audit"], recipe.audit.require
    if not facts["complete"]:
        return Gate("audit", False, "the audit is not complete: run the same command again to go on")
    if required == NO_GATE:
        return Gate("audit", True, f"nothing is required; the audit says: {facts['phrase']}")
    holds = bool(facts["passes"][required])
    return Gate("audit", holds, f"`{required}` {'holds' if holds else 'does not hold'}: {facts['phrase']}")
