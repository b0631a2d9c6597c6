"""The plan: what a mask would buy, before anything is patched; read from `neurons.json` alone.

- **Frontier**: masks of more and more prompts, cheapest first: neurons, prompts broken (at least), estimated
  ordinary change. From a joint search as it was recorded; else by taking the localized prompts' own sets one
  after the other, the one that adds the fewest neurons first, with no change known.
- **Map**: how many prompts need each neuron of the set: of a joint search, in how many certificates it
  stands; else in how many localized prompts' own sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.localization.joint.planned import FrontierPoint, Neuron, Plan
from surgery.localization.joint.plots import draw_plan
from surgery.localization.records import LOCALIZED, NOT_MEMORIZED, PromptRecord
from surgery.neurons import NeuronSet, read_neurons_document


def plan(neurons: str | Path, picture: str | Path | None = None) -> Plan:
    """What the set of a `neurons.json` would buy, prompt by prompt and neuron by neuron.

    Args:
        neurons: the file, as `localize` wrote it.
        picture: draw the plan there too: a .png or .svg file (needs matplotlib: `surgery[plots]`).

    Raises:
        UsageError: the file is not a `neurons.json` with records of prompts; the picture can't be drawn or
            written.
    """
    document = read_neurons_document(neurons)
    try:
        records = [PromptRecord.from_json(one) for one in document["prompts"]]
    except (KeyError, TypeError, AttributeError):
        raise UsageError(
            expanded(neurons), "it has no records of prompts", "give a file that `surgery localize` wrote"
        ) from None
    memorized = [record for record in records if record.outcome != NOT_MEMORIZED]
    left = tuple(record.prompt for record in memorized if record.is_left)
    joint = document.get("joint")
    needs = [_needs(record, joint is not None) for record in memorized]
    chosen = NeuronSet(document["layers"])
    counts = Counter(pair for one in needs for pair in one)
    change = joint.get("change") if joint else None
    found = Plan(
        FrontierPoint(chosen.count, len(memorized) - len(left), change),
        _recorded(joint) if joint else _frontier([one for one in needs if one]),
        {pair: counts[pair] for pair in chosen.pairs()},
        len(memorized),
        left,
        joint is not None,
    )
    if picture is not None:
        draw_plan(found, picture)
    return found


def _needs(record: PromptRecord, joint: bool) -> frozenset[Neuron]:
    if joint:
        return frozenset(NeuronSet((record.details.get("joint") or {}).get("needs", {})).pairs())
    return frozenset(record.refined.pairs() if record.outcome == LOCALIZED else ())


def _recorded(joint: Mapping[str, Any]) -> tuple[FrontierPoint, ...]:
    return tuple(
        FrontierPoint(one["neurons"], one["prompts"], one["estimated_change"])
        for one in joint.get("frontier", [])
    )


def _frontier(needs: list[frozenset[Neuron]]) -> tuple[FrontierPoint, ...]:
    off: frozenset[Neuron] = frozenset()
    points = [FrontierPoint(0, 0, None)]
    while needs:
        smallest = min(needs, key=lambda one: len(one - off))
        needs = [one for one in needs if one is not smallest]
        off |= smallest
        points.append(FrontierPoint(len(off), len(points), None))
    return tuple(points)
