"""A sequential test: a few seeds first, more for the prompts that need them.

1. The two most telling seeds (`looks`). A prompt whose score over them lies at or below a bound is done.
2. The others get one seed more, up to five, then two; after each those at or below a bound are done.
3. What is left gets all seeds, and the very score that `scan` would have given it at once.

The bounds are made for a stated error: a prompt whose score over all seeds is exactly the threshold is
stopped early with chance `miss` at most, shared evenly by the stops (the chances of several events add up at
most); one that scores more, with less.

Assumed: what `looks` assumes. A memory that only some seeds draw may be drawn by none of the first two; who
looks for those looks at all seeds (`--all-seeds`).

Captions are tested some hundreds at a time, so that the denoiser's batches stay full at every stage, and only
these captions' predictions are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surgery.localization.criteria import Detector
from surgery.localization.discovery.looks import Looks
from surgery.localization.predictions import Predictions
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.denoising import NoisePredictor


@dataclass(frozen=True)
class Stop:
    """After the first `seeds` seeds, a prompt that scores at most `bound` is done."""

    seeds: int
    bound: float


@dataclass(frozen=True)
class SequentialTest:
    """When to stop.

    Attributes:
        order: positions of the seeds, as they are looked at.
        stops: in rising order of seeds; none for a test that always looks at all.
        miss: the chance to stop a prompt that scores the threshold over all seeds.
    """

    order: tuple[int, ...]
    stops: tuple[Stop, ...] = ()
    miss: float = 0.0

    @classmethod
    def all_seeds(cls, seeds: int) -> SequentialTest:
        """The test that looks at all seeds of every prompt."""
        return cls(tuple(range(seeds)))

    @classmethod
    def of(
        cls, looks: Looks | None, detector: str, threshold: float, seeds: int, miss: float
    ) -> SequentialTest:
        """The test with that error, from what the calibration knows; all seeds where it knows nothing."""
        if looks is None or not looks.lines.get(detector):
            return cls.all_seeds(seeds)
        lines = sorted(looks.lines[detector].items())
        stops = tuple(Stop(some, line.bound(threshold, miss / len(lines))) for some, line in lines)
        return cls(looks.order, tuple(stop for stop in stops if stop.bound > -math.inf), miss)

    def as_json(self) -> dict[str, Any]:
        """What a run's journal and its summary say of it."""
        stops = [{"seeds": stop.seeds, "bound": float(f"{stop.bound:.6g}")} for stop in self.stops]
        return {"order": list(self.order), "stops": stops, "miss": self.miss}


@dataclass(frozen=True)
class Scored:
    """A prompt's score over the seeds that were looked at, and how many these are."""

    score: float
    seeds: int


class SequentialScorer:
    """Scores prompts on one set of latents, by a sequential test.

    Args:
        predictor: runs and counts the denoiser.
        detector: what scores.
        latents: all of them, [seeds, channels, height, width].
        test: when to stop.
    """

    def __init__(
        self, predictor: NoisePredictor, detector: Detector, latents: torch.Tensor, test: SequentialTest
    ) -> None:
        self.predictor = predictor
        self.detector = detector
        self.latents = latents
        self.test = test
        self._empty: torch.Tensor | None = None

    def __call__(self, prompts: Sequence[str], in_full: Collection[str] = ()) -> list[Scored]:
        """The scores of some prompts, in their order; those `in_full` get all seeds whatever the first say.

        Raises:
            SurgeryError: the denoiser fails.
        """
        conditioning = encode_prompts(self.predictor.model, prompts)
        found: dict[int, Scored] = {}
        alive = list(range(len(prompts)))
        noise: dict[int, torch.Tensor] = {}  # position -> [seeds so far, ...] in the order of the test
        done = 0
        for seeds, bound in [
            *((stop.seeds, stop.bound) for stop in self.test.stops),
            (len(self.latents), None),
        ]:
            going_on = []
            for some in self._groups(alive, seeds - done):
                fresh = self._predict(conditioning, some, self.test.order[done:seeds])
                seen = [
                    torch.cat([noise.pop(place), new]) if done else new
                    for place, new in zip(some, fresh, strict=True)
                ]
                scores = self.detector.scores(self._predictions(torch.stack(seen), seeds))
                for place, score, one in zip(some, scores, seen, strict=True):
                    if bound is None or (score <= bound and prompts[place] not in in_full):
                        found[place] = Scored(score, seeds)
                    else:
                        going_on.append(place)
                        noise[place] = one
            alive, done = going_on, seeds
        return [found[place] for place in range(len(prompts))]

    def _groups(self, places: list[int], seeds: int) -> Iterator[list[int]]:
        """As many prompts at a time as one denoiser call has room for."""
        together = max(1, self.predictor.batch_size // seeds)
        for start in range(0, len(places), together):
            yield places[start : start + together]

    def _predict(self, conditioning: Conditioning, places: list[int], seeds: Sequence[int]) -> torch.Tensor:
        """[prompts, seeds, channels, height, width]."""
        latents = self.latents[list(seeds)]
        chosen = conditioning.select(torch.tensor(places)).repeat(len(latents))
        noise = self.predictor.predict(latents.repeat(len(places), 1, 1, 1), chosen)
        return noise.unflatten(0, (len(places), len(latents)))

    def _predictions(self, noise: torch.Tensor, seeds: int) -> Predictions:
        """What the detector reads; all seeds in their own order, so that the score is that of `localize`."""
        chosen = list(self.test.order[:seeds])
        if seeds == len(self.latents):
            back = sorted(range(seeds), key=chosen.__getitem__)
            noise, chosen = noise[:, back], list(range(seeds))
        return Predictions(
            noise,
            self.latents[chosen],
            lambda: self._empty_prompt()[chosen],
            self.predictor.noise_rate,
        )

    def _empty_prompt(self) -> torch.Tensor:
        if self._empty is None:
            self._empty = self.predictor.predict(self.latents, encode_prompts(self.predictor.model, [""]))
        return self._empty
