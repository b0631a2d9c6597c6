"""Fast refinement of one prompt: `certificate` over real tests, with the published walk behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from surgery.localization.search.certificate import find_certificate, refine_fast, union
from surgery.localization.search.evaluation import Answer, PromptEvaluator
from surgery.localization.search.monotone import MonotoneOracle, NotMonotone
from surgery.localization.search.published_walk import refine
from surgery.localization.search.selection import (
    Neuron,
    Selection,
    by_importance,
    walk_order,
    without_duplicates,
)
from surgery.neurons import NeuronSet


@dataclass
class Found:
    """What refinement returns: the neurons that stay, their score, and how the search went."""

    neurons: list[Neuron]
    score: float | None
    details: dict[str, Any] = field(default_factory=dict)


class FastRefinement:
    """The tests of one prompt's refinement, answered by an evaluator and remembered.

    Args:
        evaluator: of the prompt.
        selection: the initial set and its score.
        z: layer name -> z-scores, which rank the neurons by importance.
        threshold: of refinement.
    """

    def __init__(
        self,
        evaluator: PromptEvaluator,
        selection: Selection,
        z: Mapping[str, torch.Tensor],
        threshold: float,
    ) -> None:
        self.evaluator = evaluator
        self.selection = selection
        self.threshold = threshold
        self.order = without_duplicates(selection.neurons)
        self.bits = {neuron: 1 << position for position, neuron in enumerate(self.order)}
        self.ranked = by_importance(self.order, z)
        self.oracle = MonotoneOracle(self._test, threshold)

    def search(self, spot_checks: bool) -> Found:
        """The fast search.

        Raises:
            NotMonotone: an inferred answer proved wrong.
        """
        oracle = self.oracle
        unablated = self.evaluator.unablated_score()
        oracle.learn(0, Answer(unablated < self.threshold, unablated, True))
        for neurons, answer in self.selection.tests:
            # Selection asks for "at most", refinement for "below", at times of another threshold: the score
            # itself decides again, unless it is a mere lower bound that says nothing here.
            broken = answer.score < self.threshold
            if all(neuron in self.bits for neuron in neurons) and (answer.exact or not broken):
                oracle.learn(self._set_of(neurons), replace(answer, broken=broken))
        everything = self._set_of(self.order)
        if not oracle.ask(everything):  # inferred, where the selection tested only a part of it
            raise NotMonotone
        order = [self.bits[neuron] for neuron in walk_order(self.order)]
        ranked = [self.bits[neuron] for neuron in self.ranked]
        ranked.sort(key=lambda bit: oracle.infer(everything & ~bit) is True)  # what can leave comes last
        certificate = find_certificate(ranked, everything, oracle)
        if not certificate:
            return self.walk()
        layers = list(dict.fromkeys(layer for layer, _ in self.order))
        members = [self._set_of([one for one in self.order if one[0] == layer]) for layer in layers]
        kept = refine_fast(order, members[::-1], ranked, certificate, oracle)
        oracle.verify(spot_checks)
        score = self._exact_score(kept)
        if score >= self.threshold:
            raise NotMonotone
        details = {
            "search": "group tests",
            "inferred": len(oracle.inferred),
            "wobble": round(oracle.wobble, 6),
        }
        return Found(self._neurons(kept), score, details)

    def walk(self) -> Found:
        """The published walk, test by test; answers of real tests are not asked for again."""

        def breaks(neurons: NeuronSet) -> bool:
            off = self._set_of(neurons.pairs())
            if off not in self.oracle.known:
                self.oracle.known[off] = self._test(off)
            return self.oracle.known[off].broken

        kept = refine(self.selection.neurons, breaks)
        return Found(kept, self._exact_score(self._set_of(kept)), {"search": "single tests"})

    def _test(self, off: int) -> Answer:
        return self.evaluator.breaks(NeuronSet.from_pairs(self._neurons(off)), self.threshold)

    def _exact_score(self, off: int) -> float:
        known = self.oracle.known.get(off)
        if known is not None and known.exact:
            return known.score
        return self.evaluator.score(NeuronSet.from_pairs(self._neurons(off)))

    def _set_of(self, neurons: Iterable[Neuron]) -> int:
        return union(self.bits[neuron] for neuron in neurons)

    def _neurons(self, off: int) -> list[Neuron]:
        return [neuron for neuron in self.order if self.bits[neuron] & off]
