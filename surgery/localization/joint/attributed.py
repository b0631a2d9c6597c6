"""Candidates by attribution: where no z-score singles a neuron out, ask the score instead.

The published descent then switches off more and more neurons of middling activation. With
`--selection attribution`, one attribution (`surgery.localization.joint.attribution`: one backward pass a seed
and step, all layers at once) ranks all neurons by their first-order effect on how much of the prompt's own
picture is left; step i takes the first 2^i of those with an effect above 0. The steps are nested as the
published ones are, so that the same search walks them, and every claim is tested by it.

**What it saved**: the tests that the published walk would have needed until its set holds the neurons found
(its steps to there, its layers, its neurons in the layers that stay), less those that were made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from surgery.localization.joint.attribution import attribute
from surgery.localization.joint.replicas import replica_of
from surgery.localization.search.selection import Descent, Neuron, Step
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import NoisePredictor
from surgery.model.pipeline import LiveModel
from surgery.model.sketches import ShortSampler
from surgery.model.work import Work
from surgery.neurons import NeuronSet


class AttributedDescent(Descent):
    """Nested candidate sets by effect.

    Args:
        published: the descent by z-score, whose order of layers the sets keep.
        effects: layer name -> [rows].
    """

    def __init__(self, published: Descent, effects: Mapping[str, torch.Tensor]) -> None:
        self.z = effects  # what the search ranks by
        self.settings = published.settings
        self.published = published
        found = [
            (float(effect), name, row)
            for name, values in effects.items()
            for row, effect in enumerate(values)
            if effect > 0
        ]
        self.ranked: list[Neuron] = [
            (name, row) for _, name, row in sorted(found, key=lambda one: -one[0])
        ] or [(name, row) for name, rows in effects.items() for row in range(len(rows))]
        self.layers = list(effects)

    @property
    def last(self) -> int:
        """The number of the step that takes all."""
        return math.ceil(math.log2(len(self.ranked)))

    def step(self, number: int) -> Step:
        """No theta; k is how many neurons the step takes of all layers together."""
        return Step(None, min(2**number, len(self.ranked)))

    def neurons(self, number: int) -> list[Neuron]:
        """The first 2^number by effect, layers in the order of the signal."""
        chosen = self.ranked[: 2**number]
        return sorted(chosen, key=lambda neuron: (self.layers.index(neuron[0]), neuron[1]))

    def saved(self, refined: list[Neuron], evaluations: int) -> int:
        """How many tests less than the published walk's were made; see the module."""
        wanted, number = set(refined), 0
        while number < self.published.last and not wanted <= set(self.published.neurons(number)):
            number += 1
        initial, kept = self.published.neurons(number), {layer for layer, _ in refined}
        layers = len({layer for layer, _ in initial})
        walked = number + 1 + layers + sum(layer in kept for layer, _ in initial)
        return walked - evaluations


def attributed(
    model: LiveModel,
    layers: Mapping[str, torch.nn.Linear],
    latents: torch.Tensor,
    conditioning: Conditioning,
    published: Descent,
    settings: LocalizeSettings,
    work: Work,
) -> AttributedDescent:
    """The descent by attribution of one prompt; arguments as in `PromptLocalizer`."""
    predictor = NoisePredictor(model, batch_size=settings.batch_size, work=work)
    sampler = ShortSampler(predictor, settings.joint_steps)
    replica = replica_of(sampler.draw(latents, conditioning, NeuronSet()))
    effects, _ = attribute(sampler, layers, latents[: settings.joint_seeds], conditioning, replica)
    return AttributedDescent(published, effects)
