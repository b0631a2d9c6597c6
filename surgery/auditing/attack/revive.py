"""The revival attack: does teaching OTHER pictures bring the image back?

An edit that only turns a memory off can be undone without the image: fine-tuning on other memories of the
same corpus, or on anything at all, may turn it on again. Whoever attacks this way never needs the image for
it.

1. Fine-tune the whole denoiser (Adam; the rate stands in `surgery.model.finetuning`) on one of two sets:
   "siblings", other memories of the corpus with their captions, a third of them left out and never the
   image itself; "ordinary", pictures that the model itself draws for ordinary captions. Without siblings
   the second alone.
2. Ask for the image in two ways: "prompt", its own caption at the pipeline's guidance; and "embedding", a
   short embedding attack from that caption on the taught model, drawn at guidance 1 and the pipeline's own.
3. The same at step 0, before anything was taught.

The embedding attack does need the image: it looks for what is there, as it does on controls and on the
twin. Memory: one more copy of the denoiser for each set, three more while it learns; the model is left bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from surgery.auditing.attack.conditioned import draw_conditioned
from surgery.auditing.attack.pictures import picture_seeds_of
from surgery.auditing.attack.protocol import Attack, Point, Target
from surgery.auditing.attack.teaching import Lessons, lessons, seek_embedding, teach
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import generate
from surgery.auditing.settings import AuditSettings
from surgery.errors import SurgeryError
from surgery.model.conditioning import Conditioning
from surgery.model.finetuning import WHOLE_RATE, Finetuning, rate_for
from surgery.model.learners import WholeDenoiser
from surgery.model.pipeline import LiveModel

SIBLINGS, ORDINARY = "siblings", "ordinary"
PROMPT, EMBEDDING = "prompt", "embedding"
EMBEDDING_STEPS = 25
ORDINARY_PICTURES = 8  # drawn by the model itself; they are what it can draw anyway


@dataclass(frozen=True, kw_only=True)
class ReviveAttack(Attack):
    """How the attack is made.

    Attributes:
        curve: after how many steps of fine-tuning the image is asked for; the last ends it.
        batch: noised pictures per step.
        drawings: of the own caption, the last; of what the embedding attack found, all: one per guidance.
        batch_size: the most samples in one pass.
        rate: of Adam in the fine-tuning, on a denoiser as wide as the testbed's.
        embedding_steps, embedding_rate: of the short embedding attack.
    """

    name: ClassVar[str] = "revive"
    passes_edit: ClassVar[bool] = False
    wants_siblings: ClassVar[bool] = True

    curve: tuple[int, ...]
    batch: int
    drawings: tuple[Drawing, ...]
    batch_size: int
    rate: float = WHOLE_RATE
    embedding_steps: int = EMBEDDING_STEPS
    embedding_rate: float = 0.1

    @classmethod
    def from_settings(cls, settings: AuditSettings) -> ReviveAttack:
        """The attack as the settings of an audit ask for it."""
        seeds = picture_seeds_of(settings)
        return cls(
            selection_seeds=seeds["selection_seeds"],
            scored_seeds=seeds["scored_seeds"],
            curve=tuple(settings.revive_curve),
            batch=settings.attack_batch,
            drawings=tuple(
                Drawing(settings.steps, one, settings.batch_size) for one in sorted({1.0, settings.guidance})
            ),
            batch_size=settings.batch_size * 2,
            embedding_rate=settings.learning_rate,
        )

    def sets(self, target: Target) -> tuple[str, ...]:
        """Which sets are taught."""
        return (SIBLINGS, ORDINARY) if target.siblings else (ORDINARY,)

    def asked(self) -> tuple[tuple[str, Drawing], ...]:
        """How the image is asked for, and how pictures of it are drawn."""
        return ((PROMPT, self.drawings[-1]), *((EMBEDDING, drawing) for drawing in self.drawings))

    def variants(self, target: Target) -> tuple[str, ...]:
        """Each set with each way to ask."""
        return tuple(
            f"{one}, {way}, guidance {drawing.guidance:g}"
            for one in self.sets(target)
            for way, drawing in self.asked()
        )

    @property
    def effort(self) -> int:
        """The steps of fine-tuning on each set."""
        return self.curve[-1]

    def cost(self) -> int:
        """The sample-forwards of attacking one image with siblings, each point better than the last.

        At step 0 both sets are the same untaught model: only one of them is asked.
        """
        points = len(self.curve) * 2 - (1 if self.curve[0] == 0 else 0)
        chosen = sum(one.forwards(len(self.selection_seeds)) for _, one in self.asked())
        scored = max(one.forwards(len(self.scored_seeds)) for _, one in self.asked())
        own = self.drawings[-1].forwards(ORDINARY_PICTURES)
        descent = self.effort * self.batch * 2 + points * self.embedding_steps * self.batch
        return own + descent + points * chosen + len(self.curve) * scored

    def draw(self, model: LiveModel, target: Target) -> Iterator[Point]:
        """Teach every set side by side, and ask at each point of the curve; see `Attack.draw`.

        Raises:
            SurgeryError: there is neither a sibling nor an ordinary caption.
        """
        for steps, learners in self.taught(model, target):
            yield self.asking(model, target, steps, learners)

    def taught(self, model: LiveModel, target: Target) -> Iterator[tuple[int, list[WholeDenoiser]]]:
        """Teach every set side by side, along the curve.

        The image itself plays no part in it: whoever attacks several images that have the same siblings can
        teach once and ask for each (`asking`).

        Yields:
            The steps made so far, and what each set has taught by then; the same objects each time.

        Raises:
            SurgeryError: there is neither a sibling nor an ordinary caption.
        """
        learners, courses = [], []
        for number, one in enumerate(self.sets(target)):
            learner = WholeDenoiser(model.denoiser)
            finetuning = Finetuning(model, learner, rate_for(model.denoiser, self.rate), self.batch_size)
            generator = torch.Generator("cpu").manual_seed(target.seed + number)
            learners.append(learner)
            taught = self._lessons(model, target, one)
            courses.append(teach(finetuning, taught, self.curve, self.batch, generator))
        for steps in zip(*courses, strict=True):
            yield steps[0], learners

    def asking(
        self, model: LiveModel, target: Target, steps: int, learners: Sequence[WholeDenoiser]
    ) -> Point:
        """One point of the curve: ask for an image what was `taught`."""
        own = lessons(model, target.image[None], [target.prompt])
        return Point(steps, _Asked(self, model, target, own, learners, steps > 0))

    def _lessons(self, model: LiveModel, target: Target, which: str) -> Lessons:
        if which == SIBLINGS:
            images = torch.stack([one.image for one in target.siblings])
            return lessons(model, images, [one.prompt for one in target.siblings])
        captions = [one for one in target.others if one != target.prompt][:ORDINARY_PICTURES]
        if not captions:
            raise SurgeryError("revive", "there are no ordinary captions to teach", "give ordinary prompts")
        # each caption at one seed: what is taught must not be the image itself, and is not compared with it
        drawn = generate(model, captions, [target.seed], self.drawings[-1], quiet=True)[:, 0]
        return lessons(model, drawn, captions)


@dataclass(frozen=True)
class _Asked:
    """How one point of the curve is asked; `learnt`: whether anything was taught yet."""

    attack: ReviveAttack
    model: LiveModel
    target: Target
    own: Lessons
    learners: Sequence[WholeDenoiser]
    learnt: bool
    found: dict[int, Conditioning] = field(default_factory=dict)  # set -> what the embedding attack found

    def __call__(self, places: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
        drawn: dict[tuple[int, int], torch.Tensor] = {}  # (set, way to ask) -> pictures
        pictures = []
        for place in places:
            which, way = divmod(place, len(self.attack.asked()))
            key = (which if self.learnt else 0, way)
            if key not in drawn:
                with self.learners[key[0]].applied():
                    drawn[key] = self._draw(*key, seeds)
            pictures.append(drawn[key])
        return torch.stack(pictures)

    def _draw(self, which: int, way: int, seeds: Sequence[int]) -> torch.Tensor:
        attack, (name, drawing) = self.attack, self.attack.asked()[way]
        if name == PROMPT:
            return generate(self.model, [self.target.prompt], seeds, drawing, quiet=True)[0]
        if which not in self.found:
            self.found[which] = seek_embedding(
                self.model,
                self.own,
                attack.embedding_steps,
                attack.batch,
                attack.embedding_rate,
                self.target.seed,
                attack.batch_size,
            )
        return draw_conditioned(self.model, self.found[which], seeds, drawing)[0]
