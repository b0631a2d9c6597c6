"""The criterion target-gone: is the image still what the denoiser draws, with the neurons off?

What is looked at is a sketch of each seed's picture (`surgery.model.sketches`): the clean latent that the
denoiser predicts from pure noise. It is compared with the target, where the target is fixed:

1. The target is the training image's latent, where one is given. Otherwise it is SOURCE's own replica: for
   each seed the mean of the OTHER seeds' sketches with nothing off, so that a seed is never compared with
   itself. What the seeds agree on adds up there, the rest fades.
2. The tiles in which SOURCE's sketches agree across seeds count (`surgery.localization.fixed`): of a template
   its fixed part, found without a mask. What varies may go on varying.
3. A seed's likeness is that of the two there (`surgery.localization.likeness`).
4. The score is the highest likeness over seeds: the memory is broken when not one of them is like the target
   more than an ordinary prompt's sketches are like their own mean, or like a stranger's picture where the
   target is an image. Both are calibrated, and the second is brought to the scale of the first.

The gate asks the same of the unablated prompt. More seeds can only raise the highest, so the first seeds
bound the score from below. An image that SOURCE does not draw for its prompt (a wrong one, a crop) acquits no
prompt: the gate asks for SOURCE's own replica then, and so does all that follows.

Blind spots: a sketch of one step is what the noisy end says; what later steps or guidance bring back escapes
it (the confirmation draws pictures). Without an image, a set that swaps one memory for another passes, and
rightly so: the target is gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from surgery.localization.criteria import Criterion
from surgery.localization.distribution import Distribution
from surgery.localization.fixed import fixed_mask
from surgery.localization.likeness import correlation, differences
from surgery.localization.ms_ssim import Window
from surgery.localization.predictions import Predictions
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import NoisePredictor
from surgery.model.replay import BlockReplay
from surgery.model.sketches import first_sketches
from surgery.neurons import NeuronSet

OWN, STRANGERS = "own_replica", "strangers_image"
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class TargetGone(Criterion):
    """See the module's docstring.

    Attributes:
        target: the training image's latent [channels, height, width]; None for SOURCE's own replica.
        targets: those of all prompts that have one.
        ordinary: the calibrated distributions of both cases.
        deviations: of the threshold.
    """

    target: torch.Tensor | None = None
    targets: Mapping[str, torch.Tensor] = field(default_factory=dict)
    ordinary: Mapping[str, Distribution] = field(default_factory=dict)
    deviations: float = 2.0

    distribution = OWN
    cutoff = 2.0

    @property
    def distributions(self) -> tuple[str, ...]:
        return (OWN, STRANGERS)

    def calibrated(self, ordinary: Mapping[str, Distribution], cutoff: float | None = None) -> TargetGone:
        known = {name: ordinary[name] for name in self.distributions if name in ordinary}
        return replace(self, ordinary=known, deviations=self.cutoff if cutoff is None else cutoff)

    def shown(self, targets: Mapping[str, torch.Tensor]) -> TargetGone:
        return replace(self, targets=targets)

    @property
    def has_target(self) -> bool:
        return self.target is not None

    def of_prompt(self, prompt: str) -> TargetGone:
        return replace(self, target=self.targets.get(prompt))

    def look(
        self,
        predictor: NoisePredictor,
        latents: torch.Tensor,
        conditioning: Conditioning,
        neurons: NeuronSet,
        replay: BlockReplay | None,
    ) -> torch.Tensor:
        return first_sketches(predictor, latents, conditioning, neurons, replay)

    def pairwise(self, unablated: torch.Tensor, window: Window) -> torch.Tensor:
        """Off the diagonal the likeness of two seeds' sketches, on it that of each seed to the target."""
        changes = differences(unablated.float().cpu())
        rows, columns = torch.triu_indices(len(changes), len(changes), offset=1)
        table = torch.diag(self.likeness(unablated, unablated))
        table[rows, columns] = table[columns, rows] = correlation(changes[rows], changes[columns])
        return table

    def gate_score(self, pairwise: torch.Tensor) -> float:
        return self.score_of({self._part: float(pairwise.diagonal().max())})

    def looked_at(self, seen: Predictions) -> torch.Tensor:
        return seen.sketches

    def parts(
        self, ablated: torch.Tensor, unablated: Callable[[], torch.Tensor], seeds: int, window: Window
    ) -> dict[str, float]:
        likeness = self.likeness(ablated, unablated())
        parts = {self._part: float(likeness.max()), "likeness_mean": float(likeness.mean())}
        if self._part in self.ordinary:
            level = self.ordinary[self._part].cutoff(self.deviations)
            parts["resembling_seeds"] = float((likeness > level).sum())
        return parts

    def score_of(self, parts: Mapping[str, float]) -> float:
        if STRANGERS not in parts:
            return parts[OWN]
        if not {OWN, STRANGERS} <= set(self.ordinary):
            return parts[STRANGERS]
        own, strangers = self.ordinary[OWN], self.ordinary[STRANGERS]
        beyond = (parts[STRANGERS] - strangers.mean) / max(strangers.std, LEAST_DEVIATION)
        return own.mean + beyond * own.std

    def first_seeds(self, pairwise: torch.Tensor, threshold: float) -> int:
        # The seeds that agree most come first; where one test fails, their likeness shows it.
        return math.ceil(len(pairwise) / 4)

    def likeness(self, seen: torch.Tensor, unablated: torch.Tensor) -> torch.Tensor:
        """Of each of the first n seeds to the target: [n].

        Args:
            seen: their sketches, [n, channels, height, width].
            unablated: the sketches of all seeds with nothing off, in the same order.
        """
        seen, unablated = seen.float().cpu(), unablated.float().cpu()
        mask = fixed_mask(unablated)
        if self.target is not None:
            targets = self.target.float().cpu().expand_as(seen)
        else:
            others = max(1, len(unablated) - 1)
            targets = ((unablated.sum(0) - unablated) / others)[: len(seen)]
        return correlation(differences(seen), differences(targets), mask)

    def calibration_values(self, one: Predictions, before: Predictions | None) -> dict[str, list[float]]:
        sketches = one.sketches[0]
        values = {OWN: [float(self.likeness(sketches, sketches).max())]}
        if before is not None and before.draw is not None:
            # Another prompt's picture; the seed that it was drawn from is left out.
            stranger = replace(self, target=before.draw())
            values[STRANGERS] = [float(stranger.likeness(sketches[1:], sketches).max())]
        return values

    @property
    def _part(self) -> str:
        return OWN if self.target is None else STRANGERS
