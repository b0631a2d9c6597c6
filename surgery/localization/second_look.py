"""A second look at prompts that pass the gate: are they memorized, or alike by chance or by nature?

The gate lets every prompt through that scores some deviations above ordinary ones, so that a few per cent of
ordinary prompts pass. Each that does is looked at once more, with nothing off, on the latents of the
confirmation, which the gate has not seen:

1. **Chance.** The null hypothesis: the prompt is one more ordinary prompt. Its score on the fresh latents is
   then one more draw from what the calibration measured there, so that
   t = (score - mean) / (std x sqrt(1 + 1 / n)) follows Student's t with n - 1 degrees of freedom, n ordinary
   prompts calibrated. Assumed: ordinary scores are normal, or fall off faster above; `docs/localize.md` says
   how they do on the testbed. The p-value is the upper tail, 1 for a prompt that the gate stopped; being the
   larger of the two, it is valid although both looks are at one prompt.
2. **Many prompts.** The p-values of the whole corpus are corrected by Benjamini-Hochberg at
   `false_discovery_rate`: of the prompts that stay, at most that share is expected to be ordinary (and in a
   corpus without any memory, one stays in at most that share of runs). Assumed: independent p-values, or
   positively dependent ones, as those are that share their latents and their calibration. What fails is a
   `false alarm`.
3. **Nature.** Every seed draws the same for `a plain white background`, and nobody memorized it. What tells:
   its neighbors, the caption with each part of it dropped in turn and with its parts in reverse order, are
   alike as well, because the words say so and not because they are a key. Where every neighbor keeps at least
   half of what the prompt scores above ordinary prompts, and lies above the threshold, the prompt is `alike
   by nature`.

Blind spot of 3: an image that is drawn whatever part of its caption is left out and in whatever order, looks
like nature. So such prompts are named, and `--no-second-look` searches them. A caption of one word has no
neighbors and is never excused.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from surgery.errors import UsageError
from surgery.localization import registry
from surgery.localization.calibration import Calibration, predictions_of
from surgery.localization.records import NOT_MEMORIZED, PromptRecord
from surgery.localization.settings import LocalizeSettings
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import LiveModel
from surgery.neurons import NeuronSet

FALSE_ALARM, BY_NATURE = "false alarm", "alike by nature"
CRITERION = registry.DEFAULT  # the question is always: do the seeds agree?
FEWEST_PROMPTS = 8  # calibrated; Student's t with fewer degrees of freedom finds nothing unlikely
PARTS = 6  # the most parts that a caption is cut into
KEPT_SHARE = 0.5  # of the score above ordinary prompts, in every neighbor of a prompt alike by nature


@dataclass(frozen=True)
class Look:
    """What the second look saw of one prompt.

    Attributes:
        score: unablated, on the fresh latents.
        p_value: that an ordinary prompt scores as high; not corrected for the corpus.
        neighbors: how many neighbors were looked at; none where chance explains the score.
        lowest_neighbor: the lowest score among them.
        reason: `FALSE_ALARM` (at the level of one prompt), `BY_NATURE`, or "" for a memory.
    """

    score: float
    p_value: float
    neighbors: int = 0
    lowest_neighbor: float | None = None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The `second_look` of a record."""
        lowest = self.lowest_neighbor
        return {
            "score": float(f"{self.score:.6g}"),
            "p_value": float(f"{self.p_value:.6g}"),
            "neighbors": self.neighbors,
            "lowest_neighbor": None if lowest is None else float(f"{lowest:.6g}"),
        }


class SecondLook:
    """Looks again at the prompts of one run.

    Args:
        calibration: of the model, with the confirmation's latents.
        latents: of the confirmation, [seeds, channels, height, width].
        level: p-values above it are a false alarm whatever the rest of the corpus.

    Raises:
        UsageError: the calibration knows nothing of these latents.
    """

    @classmethod
    def of(cls, model: LiveModel, calibration: Calibration, settings: LocalizeSettings) -> SecondLook | None:
        """The second look of a run; None where it takes none.

        That is: where it is switched off, in the reference strategy, without fresh seeds, and where the
        calibration has too few prompts to call anything unlikely.
        """
        if not settings.second_look or settings.strategy == "reference" or not settings.confirm_seeds:
            return None
        latents = seeded_latents(model, settings.confirm_seed, settings.confirm_seeds)
        look = cls(calibration, latents, settings.false_discovery_rate)
        return look if look.ordinary.count >= FEWEST_PROMPTS else None

    def __init__(self, calibration: Calibration, latents: torch.Tensor, level: float) -> None:
        self.latents = latents
        self.level = level
        self.scorer = registry.criterion(CRITERION)
        self.threshold = calibration.threshold(self.scorer, on_fresh_seeds=True)
        self.ordinary = calibration.scores[f"confirm_{self.scorer.distribution}"]

    def __call__(self, predictor: NoisePredictor, prompt: str) -> Look:
        """Look at one prompt; costs a denoiser pass for it and, if chance does not explain it, its neighbors.

        Raises:
            SurgeryError: the denoiser fails.
        """
        score = self._scores(predictor, [prompt])[0]
        p_value = upper_tail(score, self.ordinary.mean, self.ordinary.std, self.ordinary.count)
        if p_value > self.level:
            return Look(score, p_value, reason=FALSE_ALARM)
        others = neighbors_of(prompt)
        if not others:
            return Look(score, p_value)
        lowest = min(self._scores(predictor, others))
        kept = self.ordinary.mean + KEPT_SHARE * (score - self.ordinary.mean)
        natural = lowest >= kept and lowest > self.threshold
        return Look(score, p_value, len(others), lowest, BY_NATURE if natural else "")

    def _scores(self, predictor: NoisePredictor, prompts: Sequence[str]) -> list[float]:
        together = max(1, predictor.batch_size // len(self.latents))
        batches = [prompts[start : start + together] for start in range(0, len(prompts), together)]
        return [
            score
            for _, seen in predictions_of(predictor, self.latents, batches)
            for score in self.scorer.scores(seen)
        ]


def upper_tail(score: float, mean: float, std: float, count: int) -> float:
    """The chance that one more draw from a normal distribution, known by `count`, is at least `score`."""
    from scipy import stats

    if std <= 0:
        return 0.0 if score > mean else 1.0
    return float(stats.t.sf((score - mean) / (std * (1 + 1 / count) ** 0.5), count - 1))


def neighbors_of(prompt: str) -> list[str]:
    """The prompt with each of its parts dropped in turn, then with its parts in reverse order.

    Parts are single words, in a longer prompt runs of words; a prompt of one word has no neighbors.
    """
    words = prompt.split()
    count = min(len(words), PARTS)
    if count < 2:
        return []
    ends = [round(place * len(words) / count) for place in range(count + 1)]
    parts = [words[start:end] for start, end in itertools.pairwise(ends)]
    dropped = [parts[:place] + parts[place + 1 :] for place in range(count)]
    found = [" ".join(word for part in some for word in part) for some in [*dropped, parts[::-1]]]
    return [one for one in dict.fromkeys(found) if one != prompt]


def corrected(records: Sequence[PromptRecord], rate: float) -> list[PromptRecord]:
    """The records of a corpus after the correction for many prompts (step 2).

    Args:
        records: one per prompt; those that had a second look carry its p-value.
        rate: the false discovery rate.

    Returns:
        The records in their order. A searched prompt that fails ends as not memorized, a false alarm, without
        neurons; what its search found stays out. Records without a second look are left as they are.

    Raises:
        UsageError: the rate is not between 0 and 1.
    """
    from scipy import stats

    if not 0 < rate < 1:
        raise UsageError("false-discovery-rate", f"{rate} is no share", "give a number between 0 and 1")
    looked = [record for record in records if "second_look" in record.details]
    if not looked:
        return list(records)
    p_values = [(record.details.get("second_look") or {"p_value": 1.0})["p_value"] for record in records]
    adjusted = stats.false_discovery_control(p_values, method="bh")
    result = []
    for record, value in zip(records, adjusted.tolist(), strict=True):
        look = record.details.get("second_look")
        if look is None:
            result.append(record)
            continue
        details = {**record.details, "second_look": {**look, "corrected": float(f"{value:.6g}")}}
        if record.outcome == NOT_MEMORIZED or value <= rate:
            result.append(replace(record, details=details))
            continue
        kept = {name: details[name] for name in ("second_look", "evaluations", "work")}
        result.append(
            replace(
                record,
                outcome=NOT_MEMORIZED,
                score_after=None,
                initial=NeuronSet(),
                refined=NeuronSet(),
                details={"reason": FALSE_ALARM, **kept},
            )
        )
    return result
