"""One prompt's question, asked again and again: with these neurons off, is the memory broken?

An evaluation looks at the kept seeds with a set of neurons off (the noise differences, or what else the
criterion looks at) and scores what it sees under the criterion. `score` gives the exact score. `breaks` gives
the answer to "score below the threshold?" and stops after the first few seeds where these already prove it is
not. Blocks of the denoiser that lie before the first layer whose neurons differ from an earlier run are not
computed again but replayed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from surgery.localization.criteria import Criterion, Gate
from surgery.localization.ms_ssim import window_of
from surgery.model.conditioning import Conditioning
from surgery.model.denoising import NoisePredictor
from surgery.model.replay import BlockRecorder
from surgery.neurons import NeuronSet


@dataclass(frozen=True)
class Answer:
    """The outcome of one test.

    Attributes:
        broken: whether the score lies below the threshold.
        score: the exact score over all kept seeds, or a lower bound of it where the test stopped early.
        exact: which of the two.
    """

    broken: bool
    score: float
    exact: bool


class PromptEvaluator:
    """Evaluations of one prompt on one set of latents.

    Args:
        predictor: runs and counts the denoiser.
        conditioning: of the one prompt.
        latents: [seeds, channels, height, width].
        criterion: what is looked at, and how it becomes a score.
        replays: keep block outputs and replay them (the fast strategy).

    Attributes:
        gate: filled by `judge`: the unablated score and the kept seeds.
        gate_parts: filled by `judge`: the numbers that the unablated score is made of, over all seeds.
        parts: of every set that was scored over all kept seeds: the numbers its score is made of, by name.
    """

    def __init__(
        self,
        predictor: NoisePredictor,
        conditioning: Conditioning,
        latents: torch.Tensor,
        criterion: Criterion,
        replays: bool = False,
    ) -> None:
        self.predictor = predictor
        self.conditioning = conditioning
        self.latents = latents
        self.criterion = criterion
        self.window = window_of(*latents.shape[-2:])
        self.evaluations = 0
        self.gate = Gate(0.0, ())
        self.gate_parts: dict[str, float] = {}
        self.parts: dict[NeuronSet, dict[str, float]] = {}
        # With guidance a batch holds every latent twice: stored outputs would not line up with the latents.
        usable = replays and criterion.replays and predictor.guidance is None
        self._recorder = BlockRecorder(predictor.model.denoiser) if usable else None
        self._first_seeds = latents.shape[0]
        self._unablated: torch.Tensor | None = None

    @property
    def unablated(self) -> torch.Tensor:
        """What is seen of the kept seeds with nothing off, [seeds, channels, height, width].

        Known where `judge` has run, else predicted now: no criterion can read anything else in their place.
        """
        if self._unablated is None:
            self.evaluations += 1
            self._unablated = self._look(NeuronSet(), 0, len(self.latents))
        return self._unablated

    def judge(self, threshold: float) -> Gate:
        """Predict without ablation and pass the gate; the kept seeds are those of every later evaluation."""
        self.evaluations += 1
        with self._recording(NeuronSet()):
            seen = self._look(NeuronSet(), 0, len(self.latents))
        pairwise = self.criterion.pairwise(seen, self.window)
        self.gate = self.criterion.gate(pairwise, threshold)
        self.gate_parts = self.criterion.parts(seen, lambda: seen, len(seen), self.window)
        # Seeds that agree most come first: they are the ones on which a failing test shows soonest.
        kept = torch.tensor(self.gate.kept, dtype=torch.long)
        if len(kept) > 1:
            whole = pairwise if pairwise.dim() == 2 else pairwise[0]
            kept = kept[whole[kept][:, kept].sum(dim=1).argsort(descending=True, stable=True)]
        self.latents = self.latents[kept]
        self._unablated = seen[kept.to(seen.device)]
        if self._recorder is not None:
            self._recorder.reorder(kept)
        if len(kept) > 1:
            self._first_seeds = self.criterion.first_seeds(pairwise[..., kept, :][..., kept], threshold)
        return self.gate

    def unablated_score(self) -> float:
        """The score of the empty set, known from the gate's own run."""
        return self._bound(NeuronSet(), self.unablated)

    def score(self, neurons: NeuronSet) -> float:
        """The exact score with the neurons off, over the kept seeds."""
        self.evaluations += 1
        return self._bound(neurons, self._look(neurons, 0, len(self.latents)))

    def breaks(
        self,
        neurons: NeuronSet,
        threshold: float,
        strictly: bool = True,
        keep: bool = False,
        at_once: bool = False,
    ) -> Answer:
        """Test whether the score lies below the threshold (or at most at it, if not `strictly`).

        Looks at the most telling seeds first and stops there if they prove that the score does not. `keep`
        stores block outputs, so that later tests can replay those they share with this one. `at_once` looks
        at all seeds in one call, for a set that is expected to break the memory.
        """
        if not neurons:
            score = self.unablated_score()
            return Answer(_below(score, threshold, strictly), score, True)
        self.evaluations += 1
        seeds = len(self.latents)
        with self._recording(neurons) if keep else nullcontext():
            first = seeds if at_once else self._first_seeds
            seen = self._look(neurons, 0, first)
            bound = self._bound(neurons, seen)
            if first < seeds and _below(bound, threshold, strictly):
                seen = torch.cat([seen, self._look(neurons, first, seeds)])
                bound = self._bound(neurons, seen)
        return Answer(_below(bound, threshold, strictly), bound, len(seen) == seeds)

    def _bound(self, neurons: NeuronSet, seen: torch.Tensor) -> float:
        count, seeds = len(seen), len(self.latents)
        parts = self.criterion.parts(seen, lambda: self.unablated, seeds, self.window)
        if count == seeds:
            self.parts[neurons] = parts
        return self.criterion.score_of(parts)

    def _look(self, neurons: NeuronSet, start: int, stop: int) -> torch.Tensor:
        replay = None
        if self._recorder is not None:
            replay = self._recorder.replay_for(neurons, start, stop)
        latents = self.latents[start:stop]
        return self.criterion.look(self.predictor, latents, self.conditioning, neurons, replay)

    def _recording(self, neurons: NeuronSet) -> AbstractContextManager[None]:
        if self._recorder is None:
            return nullcontext()
        return self._recorder.recording(neurons, len(self.latents))


def _below(score: float, threshold: float, strictly: bool) -> bool:
    return score < threshold if strictly else score <= threshold
