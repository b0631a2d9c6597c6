"""From the records of a corpus to one mask: search, fresh seeds, budget, and what is written down.

1. The prompts that passed the gate, unresolved ones too, become a `LivePrompts`. The search starts from the
   union of the localized prompts' sets.
2. The mask is tried on fresh seeds. Prompts that come back are judged at the seeds that failed as well, and
   the mask grows for them; then other fresh seeds are drawn. What is recorded was seen on seeds that no
   search has looked at.
3. Where a budget is given and the mask exceeds it, prompts are given up (`surgery.localization.joint.budget`)
   until it does not, by the MEASURED ordinary change.

A prompt whose seeds show no common picture can't be judged here: its own set, if it was localized, joins the
mask as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from surgery.localization.joint.budget import Point, frontier
from surgery.localization.joint.live import LivePrompts
from surgery.localization.joint.search import JointMask, JointSearch
from surgery.localization.joint.system import Mask
from surgery.localization.records import LOCALIZED, NOT_MEMORIZED, PromptRecord
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work
from surgery.neurons import NeuronSet
from surgery.ordinary import evenly

ORDINARY_PROMPTS = 16
CONFIRMATIONS = 3  # the last decides; after each of the others the mask may grow


@dataclass(frozen=True)
class JointResult:
    """The mask, and what is written down of it.

    Attributes:
        neurons: the mask.
        prompts: caption -> what its record says under `joint`.
        evidence: what the document says under `joint`.
    """

    neurons: NeuronSet
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)


def find_joint_mask(
    model: LiveModel,
    records: Sequence[PromptRecord],
    ordinary: Sequence[str],
    settings: LocalizeSettings,
    images: Mapping[str, torch.Tensor] | None = None,
) -> JointResult:
    """One mask for all prompts that passed the gate.

    Args:
        model: the live model.
        records: of the corpus, each localized by itself.
        ordinary: captions without a memory; some, evenly spread, are drawn.
        settings: what to do.
        images: prompt -> the latent [channels, height, width] of its training image.

    Raises:
        SurgeryError: the denoiser fails.
    """
    memorized = [record for record in records if record.outcome != NOT_MEMORIZED]
    if not memorized:
        return JointResult(
            NeuronSet(), {}, {"prompts": 0, "broken": 0, "neurons": 0, "work": Work().as_json()}
        )
    work = Work()
    chosen, captions = evenly(ordinary, ORDINARY_PROMPTS), [record.prompt for record in memorized]
    live = LivePrompts(model, captions, chosen, settings, work, images)
    return _Run(live, memorized, settings, work).result()


class _Run:
    def __init__(
        self, live: LivePrompts, records: Sequence[PromptRecord], settings: LocalizeSettings, work: Work
    ) -> None:
        self.live = live
        self.records = {record.prompt: record for record in records}
        self.settings = settings
        self.work = work
        self.search = JointSearch(live)
        # Sets of prompts that can't be judged are taken as found.
        others = set(self.records) - set(live.captions)
        self.given = frozenset[int]().union(*(self._set(caption) for caption in others))
        self.fresh: dict[int, float] = {}

    def result(self) -> JointResult:
        """Search, confirm, keep to the budget."""
        with self.work.stage("joint: search"):
            found = self.search.run(self._own(), self.given)
        with self.work.stage("joint: fresh seeds"):
            self._confirm(found)
            self.search.certify(found)
        with self.work.stage("joint: ordinary prompts"):
            change = self._measured(found.off)
        points = frontier(found.certificates, self.live.costs)
        kept, change = self._within_budget(found, change)
        return self._written(found, kept, change, points)

    def _set(self, caption: str) -> Mask:
        """What the prompt's own search ended with, if it broke the memory."""
        record = self.records[caption]
        return self.live.mask(record.refined) if record.outcome == LOCALIZED else frozenset()

    def _own(self) -> dict[int, Mask]:
        return {number: self._set(caption) for number, caption in enumerate(self.live.captions)}

    def _confirm(self, found: JointMask) -> None:
        """Try the mask on fresh seeds, and grow it for the prompts that come back there."""
        if not self.settings.confirm_seeds:
            return
        suspects = [*found.certificates]
        for number in range(CONFIRMATIONS):
            suspects = self._failing(found, [one for one in suspects if one in found.certificates], number)
            if not suspects:
                break
            if number + 1 < CONFIRMATIONS:
                self.search.mend(found, suspects)
        for prompt in suspects:
            found.certificates.pop(prompt, None)
        found.stays = tuple(sorted({*found.stays, *suspects}))
        self.search.mend(found, [*found.certificates])

    def _failing(self, found: JointMask, prompts: Sequence[int], number: int) -> list[int]:
        """Those of the prompts that are not broken at the fresh seeds of this number."""
        failed = []
        for prompt in prompts:
            broken, self.fresh[prompt] = self.live.on_fresh_seeds(prompt, found.off, number)
            self.search.asked.evaluations += 1
            if not broken:
                failed.append(prompt)
                self.search.asked.forget(prompt)
        return failed

    def _measured(self, off: Mask) -> float:
        return self.live.ordinary.measure(self.live.neuron_set(off))

    def _within_budget(self, found: JointMask, change: float) -> tuple[Point, float]:
        """The mask that is kept, with the prompts it breaks, and its measured change."""
        limit, most = self.settings.max_change, self.settings.max_neurons
        everything = Point(found.off, tuple(found.certificates))
        if (limit is None or change <= limit) and (most is None or len(found.off) <= most):
            return everything, change
        # The estimate chooses, made to agree with what was measured on the whole mask; measuring decides.
        scale = change / max(self.live.ordinary.estimate(sorted(found.off)), 1e-12)

        def fits(off: Mask) -> bool:
            off = off | self.given
            within = limit is None or scale * self.live.ordinary.estimate(sorted(off)) <= limit
            return within and (most is None or len(off) <= most)

        with self.work.stage("joint: budget"):
            for point in reversed(frontier(found.certificates, self.live.costs, fits)):
                off = point.off | self.given if fits(point.off) else point.off
                change = self._measured(off)
                if limit is None or change <= limit:
                    return self._also_broken(Point(off, point.prompts), found), change
        return Point(frozenset(), ()), 0.0  # not reached: the empty mask changes nothing

    def _also_broken(self, point: Point, found: JointMask) -> Point:
        """The point with the prompts added that its mask breaks besides."""
        more = [
            prompt
            for prompt in found.certificates
            if prompt not in point.prompts and self.search.asked.is_broken(prompt, point.off)
        ]
        return Point(point.off, (*point.prompts, *more))

    def _written(self, found: JointMask, kept: Point, change: float, points: Sequence[Point]) -> JointResult:
        live, evaluations = self.live, self.search.asked.evaluations
        estimate: Callable[[Mask], float] = lambda off: _rounded(live.ordinary.estimate(sorted(off)))  # noqa: E731
        rows = [
            {"neurons": len(one.off), "prompts": len(one.prompts), "estimated_change": estimate(one.off)}
            for one in points
        ]
        union = NeuronSet().union(*(record.refined for record in self.records.values()))
        evidence = {
            "prompts": len(self.records),
            "judged": live.prompts,
            "broken": len(kept.prompts),
            "neurons": len(kept.off),
            "complete": len(found.off),
            "grown": found.grown,
            "union": union.count,
            "change": _rounded(change),
            "estimated_change": estimate(kept.off),
            "ordinary_prompts": live.ordinary.prompts,
            "evaluations": evaluations,
            "most_evaluations": math.ceil(live.prompts * (math.log2(len(found.off) + 1) + 2)),
            "attributions": self.search.asked.attributions,
            "frontier": rows,
            "work": self.work.as_json(),
        }
        prompts: dict[str, dict[str, Any]] = {}
        for caption in self.records:
            replica = live.replicas[caption]
            entry: dict[str, Any] = {
                "broken": None,
                "against": "own replica" if replica.mask is None else "training image",
                "own": _rounded(replica.own),
                "level": _rounded(replica.level),
            }
            if caption in live.captions:
                number = live.captions.index(caption)
                needs = live.neuron_set(found.certificates.get(number, frozenset()))
                entry |= {
                    "broken": number in kept.prompts,
                    "threshold": _rounded(replica.threshold),
                    "fresh": _rounded(self.fresh[number]) if number in self.fresh else None,
                    "needs": needs.as_json(),
                }
            prompts[caption] = entry
        return JointResult(live.neuron_set(kept.off), prompts, evidence)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
