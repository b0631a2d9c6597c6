"""The output attack: is the image still in the weights, whatever cross-attention does with the text?

An edit can make cross-attention deaf for every embedding that leads to an image, and leave the image in the
rest of the denoiser. Whoever holds the file can replace any layer. This attack asks the rest: it learns one
constant vector for each text cross-attention layer and adds it to what that layer hands on, the same at every
place, timestep and sample (864 numbers in all on the testbed).

1. Start from zeros, over the empty prompt or over an unrelated caption.
2. Descend on the denoising loss (`surgery.auditing.attack.descent`), Adam at rate 0.05, batches of 8.
3. At the points of the curve, pictures are drawn with the constants in place, at guidance 1, 3 and the
   pipeline's own. Guidance compares what the denoiser says with and without the constants: they are added to
   the conditional half of the batch alone. In both halves they would cancel, over the empty prompt exactly.

No text encoder is asked but for the prompt underneath; nothing of the attack passes an edited weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from surgery.auditing.attack.conditioned import draw_conditioned, predicted
from surgery.auditing.attack.descent import DescentAttack, descend
from surgery.auditing.attack.pictures import draw_by_guidance, drawings_of, picture_seeds_of
from surgery.auditing.attack.protocol import Point, Target
from surgery.auditing.drawing import Drawing
from surgery.auditing.settings import AuditSettings
from surgery.measures.pictures import encode_pictures
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.injection import injected, text_attentions
from surgery.model.pipeline import LiveModel

STARTS = ("empty prompt", "other prompt")  # what lies underneath the constants
LEARNING_RATE = 0.05

Constants = dict[str, torch.Tensor]  # layer name -> float32 [restarts, width of the layer's output]


@dataclass(frozen=True, kw_only=True)
class OutputAttack(DescentAttack):
    """How the attack is made; see the module."""

    name: ClassVar[str] = "output"
    passes_edit: ClassVar[bool] = False
    full_rate: ClassVar[float] = LEARNING_RATE

    @classmethod
    def from_settings(cls, settings: AuditSettings) -> OutputAttack:
        """The attack as the settings of an audit ask for it."""
        return cls(
            **picture_seeds_of(settings),
            curve=tuple(settings.output_curve),
            starts=STARTS,
            learning_rate=LEARNING_RATE,
            batch=settings.attack_batch,
            drawings=drawings_of(settings),
            batch_size=settings.batch_size * 2,
        )

    def draw(self, model: LiveModel, target: Target) -> Iterator[Point]:
        """Learn the constants over every prompt at once; see `Attack.draw`."""
        clean = encode_pictures(model, target.image[None])[0]
        underneath = prompts_underneath(model, target, self.starts)
        for step, constants in optimize_constants(model, clean, underneath, self, self.seeds(target)):
            yield Point(step, partial(self._pictures, model, underneath, constants))

    def _pictures(
        self,
        model: LiveModel,
        underneath: Conditioning,
        constants: Constants,
        places: Sequence[int],
        picture_seeds: Sequence[int],
    ) -> torch.Tensor:
        def draw(starts: list[int], drawing: Drawing) -> torch.Tensor:
            chosen = torch.tensor(starts)

            def around(conditions: torch.Tensor) -> AbstractContextManager[None]:
                return injected(model.denoiser, _for_samples(constants, chosen[conditions]))

            return draw_conditioned(model, underneath.select(chosen), picture_seeds, drawing, around)

        return draw_by_guidance(places, self.drawings, draw)


def prompts_underneath(model: LiveModel, target: Target, starts: Sequence[str]) -> Conditioning:
    """The conditioning under each restart's constants; where no other caption is known, the empty prompt."""
    others = [one for one in target.others if one != target.prompt] or [""]
    generator = torch.Generator("cpu").manual_seed(target.seed)
    chosen = others[int(torch.randint(len(others), (1,), generator=generator))]
    return encode_prompts(model, [chosen if start == "other prompt" else "" for start in starts])


def optimize_constants(
    model: LiveModel,
    clean: torch.Tensor,
    underneath: Conditioning,
    attack: OutputAttack,
    seeds: Sequence[int],
    begin: Constants | None = None,
) -> Iterator[tuple[int, Constants]]:
    """Learn the constants of every restart for one image, stopping at each point of the curve.

    Args:
        clean: the training image's scaled latent [channels, height, width], or one for each restart.
        underneath: conditioning of n restarts, which stays as it is.
        seeds: one per restart, of its noise and timesteps.
        begin: where the constants begin, zeros where it says nothing.

    Yields:
        (steps made, the constants of the n restarts as they stand), at each point of `attack.curve`.

    Raises:
        SurgeryError: memory runs out for a single sample, a gradient is not finite, or a layer is bypassed.
        UsageError: the denoiser has no text cross-attention that is known.
    """
    constants = {
        name: torch.zeros(len(underneath), width, device=model.device)
        for name, width in text_attentions(model.denoiser).items()
    }
    for name, value in (begin or {}).items():
        constants[name].copy_(value)

    def predict(noised: torch.Tensor, timesteps: torch.Tensor, restart: torch.Tensor) -> torch.Tensor:
        with injected(model.denoiser, _for_samples(constants, restart)):
            return predicted(model, noised, timesteps, underneath.select(restart))

    for step in descend(model, clean, list(constants.values()), predict, attack, seeds):
        yield step, {name: constant.detach().clone() for name, constant in constants.items()}


def _for_samples(constants: Constants, restart: torch.Tensor) -> Constants:
    """The constants of each sample, told which restart it belongs to."""
    return {name: constant[restart.to(constant.device)] for name, constant in constants.items()}
