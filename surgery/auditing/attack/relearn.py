"""The relearning attack: how soon is an image drawn again when it is taught anew?

Whoever holds the file and the image can fine-tune. In the end every image is drawn, also one that the model
never saw; what tells is the speed. A memory that was hidden comes back in fewer steps than a new image
takes.

1. Fine-tune on the ONE image with its caption: Adam, a batch of noised copies of it per step. Two learners:
   the whole denoiser, and additions of rank 4 to the attention projections (LoRA). Their rates stand in
   `surgery.model.finetuning`.
2. After so many steps, draw pictures of the caption at the pipeline's guidance (without any it makes hardly
   a difference: the caption itself is taught).
3. The score is the mean over the curve (`Attack.learns`): the sooner, the higher. `steps_to_replicate` says
   after how many steps the picture is a replica.

Memory: up to five more copies of the denoiser while it learns; see `surgery.model.learners`. The model
itself is left bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from surgery.auditing.attack.pictures import picture_seeds_of
from surgery.auditing.attack.protocol import Attack, Point, Target
from surgery.auditing.attack.teaching import lessons, teach
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import generate
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackUnit, percentile
from surgery.model.finetuning import LOW_RANK_RATE, WHOLE_RATE, Finetuning, rate_for
from surgery.model.learners import Learner, LowRank, WholeDenoiser
from surgery.model.pipeline import LiveModel

WHOLE, LOW_RANK = "whole denoiser", "LoRA rank 4"
LEARNERS = (WHOLE, LOW_RANK)


@dataclass(frozen=True, kw_only=True)
class RelearnAttack(Attack):
    """How the attack is made.

    Attributes:
        curve: after how many steps pictures are drawn, rising; the last is the length of the attack.
        batch: noised copies of the image per step.
        drawing: of the pictures.
        batch_size: the most samples in one pass.
        learners: which of `LEARNERS` learn.
        whole_rate, low_rank_rate: of Adam, on a denoiser as wide as the testbed's.
    """

    name: ClassVar[str] = "relearn"
    passes_edit: ClassVar[bool] = False
    learns: ClassVar[bool] = True

    curve: tuple[int, ...]
    batch: int
    drawing: Drawing
    batch_size: int
    learners: tuple[str, ...] = LEARNERS
    whole_rate: float = WHOLE_RATE
    low_rank_rate: float = LOW_RANK_RATE

    @classmethod
    def from_settings(cls, settings: AuditSettings) -> RelearnAttack:
        """The attack as the settings of an audit ask for it."""
        seeds = picture_seeds_of(settings)
        return cls(
            selection_seeds=seeds["selection_seeds"],
            scored_seeds=seeds["scored_seeds"],
            curve=tuple(settings.relearn_curve),
            batch=settings.attack_batch,
            drawing=settings.drawing(),
            batch_size=settings.batch_size * 2,
        )

    def variants(self, target: Target) -> tuple[str, ...]:
        """The learners."""
        return self.learners

    @property
    def effort(self) -> int:
        """The length of the attack, in steps."""
        return self.curve[-1]

    def cost(self) -> int:
        """The sample-forwards of attacking one image: gradient steps, and all pictures of the curve."""
        pictures = (len(self.selection_seeds) + len(self.scored_seeds)) * len(self.curve)
        return len(self.learners) * (self.effort * self.batch + self.drawing.forwards(pictures))

    def draw(self, model: LiveModel, target: Target) -> Iterator[Point]:
        """Teach the learners side by side, and draw at each point of the curve; see `Attack.draw`."""
        taught = lessons(model, target.image[None], [target.prompt])
        learners: list[Learner] = []
        courses = []
        for name in self.learners:
            whole = name == WHOLE
            learner = WholeDenoiser(model.denoiser) if whole else LowRank(model.denoiser, target.seed)
            rate = rate_for(model.denoiser, self.whole_rate if whole else self.low_rank_rate)
            finetuning = Finetuning(model, learner, rate, self.batch_size)
            learners.append(learner)
            generator = torch.Generator("cpu").manual_seed(target.seed)
            courses.append(teach(finetuning, taught, self.curve, self.batch, generator))
        for steps in zip(*courses, strict=True):
            yield Point(steps[0], _Pictures(self, model, target.prompt, learners, steps[0] > 0))


@dataclass(frozen=True)
class _Pictures:
    """What is drawn at one point of the curve; `learnt`: whether anything was learnt yet."""

    attack: RelearnAttack
    model: LiveModel
    prompt: str
    learners: Sequence[Learner]
    learnt: bool

    def __call__(self, places: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
        drawn: dict[int, torch.Tensor] = {}  # learner -> pictures
        # before the first step both draw what the model itself draws
        chosen = [place if self.learnt else 0 for place in places]
        for place in dict.fromkeys(chosen):
            with self.learners[place].applied():
                found = generate(self.model, [self.prompt], seeds, self.attack.drawing, quiet=True)
            drawn[place] = found[0]
        return torch.stack([drawn[place] for place in chosen])


def steps_to_replicate(unit: AttackUnit, threshold: float, mask: int = 0) -> int | None:
    """After how many steps the scored pictures reach the replica threshold; None where they never do.

    Args:
        unit: of this attack: its scored pictures are those of every point.
    """
    for steps, seeds in zip(unit.steps, unit.scored[mask], strict=True):
        if percentile(seeds) >= threshold:
            return steps
    return None
