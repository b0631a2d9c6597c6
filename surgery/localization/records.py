"""What localization found: one record per prompt, and the document `neurons.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.files import json_text, write_atomically
from surgery.model.work import add_work
from surgery.neurons import FORMAT, NeuronSet

LOCALIZED, NOT_MEMORIZED, UNRESOLVED = "localized", "not_memorized", "unresolved"


@dataclass(frozen=True)
class PromptRecord:
    """The outcome for one prompt.

    Attributes:
        prompt: the caption.
        outcome: "localized", "not_memorized" (the gate let no seed through; or the second look found a
            `reason` why the prompt only seemed memorized) or "unresolved" (even the full initial set did not
            break the memory).
        score_before: the gate's score.
        score_after: the score with the refined neurons off; None where nothing was searched.
        initial, refined: the neurons of each stage.
        details: everything else, as JSON values: thresholds, kept seeds, theta, k, steps, duplicates, the
            confirmation on fresh seeds, evaluations, whether the fast search fell back to single tests, work.
    """

    prompt: str
    outcome: str
    score_before: float
    score_after: float | None = None
    initial: NeuronSet = field(default_factory=NeuronSet)
    refined: NeuronSet = field(default_factory=NeuronSet)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_left(self) -> bool:
        """Whether the memory is left: no set broke it, or its own or the final set not on fresh seeds.

        Where the corpus has one joint mask, and the prompt was judged under it, that takes the place of what
        its own set did.
        """
        said = {
            name: (self.details.get(name) or {}).get("broken") for name in ("joint", "confirmed", "final")
        }
        if said["joint"] is not None:
            return not said["joint"] or said["final"] is False
        return self.outcome == UNRESOLVED or False in said.values()

    def with_final(self, final: Mapping[str, Any] | None, work: dict[str, Any]) -> PromptRecord:
        """This record with the confirmation of the corpus's set, and what that cost."""
        details = {**self.details, "final": final, "work": add_work([self.details["work"], work])}
        return replace(self, details=details)

    def as_json(self) -> dict[str, Any]:
        """One entry of `prompts` in `neurons.json`, and one line of the journal."""
        document: dict[str, Any] = {
            "prompt": self.prompt,
            "outcome": self.outcome,
            "score_before": _rounded(self.score_before),
        }
        if self.outcome != NOT_MEMORIZED:
            document["score_after"] = _rounded(self.score_after)
            document["initial"] = self.initial.as_json()
            document["refined"] = self.refined.as_json()
        return {**document, **self.details}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PromptRecord:
        """The record that `as_json` wrote."""
        named = {"prompt", "outcome", "score_before", "score_after", "initial", "refined"}
        return cls(
            prompt=document["prompt"],
            outcome=document["outcome"],
            score_before=document["score_before"],
            score_after=document.get("score_after"),
            initial=NeuronSet(document.get("initial", {})),
            refined=NeuronSet(document.get("refined", {})),
            details={name: value for name, value in document.items() if name not in named},
        )


@dataclass(frozen=True)
class Localization:
    """The neurons of a whole corpus, and how they were found.

    Attributes:
        neurons: the aggregated set: what `patch` zeroes.
        records: one per different prompt, in corpus order.
        evidence: fingerprint, settings, calibration, thresholds, aggregation, corpus counts, versions, work.
    """

    neurons: NeuronSet
    records: list[PromptRecord]
    evidence: Mapping[str, Any]

    def with_outcome(self, outcome: str) -> list[PromptRecord]:
        """The records with that outcome."""
        return [record for record in self.records if record.outcome == outcome]

    def left(self) -> list[PromptRecord]:
        """The records of prompts whose memory is left."""
        return [record for record in self.records if record.is_left]

    def as_json(self) -> dict[str, Any]:
        """The whole `neurons.json`."""
        return {
            "format": FORMAT,
            "layers": self.neurons.as_json(),
            **self.evidence,
            "prompts": [record.as_json() for record in self.records],
        }

    def write(self, path: str | Path) -> None:
        """Write `neurons.json` atomically.

        Raises:
            UsageError: the folder does not exist or cannot be written.
        """
        write_atomically(path, json_text(self.as_json()).encode())


def with_joint(record: PromptRecord, joint: Mapping[str, Any] | None) -> PromptRecord:
    """The record with what the joint mask does to its prompt; as it is, if it was not asked."""
    return record if joint is None else replace(record, details={**record.details, "joint": dict(joint)})


def aggregate(
    found: Iterable[NeuronSet],
    minimum_prompts: int = 1,
    most_frequent: int | None = None,
    per_layer: bool = False,
) -> NeuronSet:
    """One set for the corpus from the sets of its prompts.

    Args:
        found: the refined set of every prompt that counts.
        minimum_prompts: keep the neurons found for at least so many prompts; 1 is the union.
        most_frequent: of these, keep the N found for most prompts (ties: earlier layer, lower row first).
        per_layer: N in each layer instead of overall.

    Raises:
        UsageError: a number is below 1.
    """
    for name, value in (("min-prompts", minimum_prompts), ("most-frequent", most_frequent)):
        if value is not None and value < 1:
            raise UsageError(name, f"{value} is less than 1", "give at least 1")
    counts: dict[tuple[str, int], int] = {}
    for neurons in found:
        for pair in neurons.pairs():
            counts[pair] = counts.get(pair, 0) + 1
    often = [pair for pair, count in counts.items() if count >= minimum_prompts]
    ranked = sorted(often, key=lambda pair: (-counts[pair], pair))
    if most_frequent is not None and per_layer:
        taken: dict[str, int] = {}
        chosen = []
        for pair in ranked:
            taken[pair[0]] = taken.get(pair[0], 0) + 1
            if taken[pair[0]] <= most_frequent:
                chosen.append(pair)
        ranked = chosen
    elif most_frequent is not None:
        ranked = ranked[:most_frequent]
    return NeuronSet.from_pairs(sorted(ranked))


def _rounded(score: float | None) -> float | None:
    return None if score is None else float(f"{score:.6g}")
