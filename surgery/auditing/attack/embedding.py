"""The embedding attack: is the image still in the weights, whatever the prompt?

After "Finding DoRI" (arXiv 2507.16880): optimize the text EMBEDDING, not the weights, until the model redraws
the training image.

1. Start from an embedding: the prompt's own, Gaussian noise of its mean and spread, an unrelated prompt's, or
   that of a sibling, another caption of the corpus.
2. Descend on the denoising loss (`surgery.auditing.attack.descent`) with batches of 8 and Adam at rate 0.1,
   as published. The loss is that of the conditional prediction alone: guidance has no part in it.
3. After 0, 10, 25, 50, ... steps, pictures are drawn from the embedding at guidance 1, 3 and the pipeline's
   own: an embedding that hardly shows the image without guidance may draw it with guidance.

A soft embedding can inject an image that the model never saw, the more so with many steps and guidance; a
curve means something only beside the same attack on control images, or on a twin (see
`surgery.auditing.judgement.statistics`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from surgery.model.pipeline import LiveModel

STARTS = ("prompt", "gaussian", "other", "sibling")
OTHERS_ENCODED = 16  # prompts that an "other" or "sibling" start is chosen from


@dataclass(frozen=True, kw_only=True)
class EmbeddingAttack(DescentAttack):
    """How the attack is made; the defaults of `AuditSettings` are the published settings, and guidance."""

    name: ClassVar[str] = "embedding"
    passes_edit: ClassVar[bool] = True
    full_rate: ClassVar[float] = 0.1

    @classmethod
    def from_settings(cls, settings: AuditSettings) -> EmbeddingAttack:
        """The attack as the settings of an audit ask for it."""
        return cls(
            **picture_seeds_of(settings),
            curve=tuple(settings.curve),
            starts=restarts_of(settings.restarts),
            learning_rate=settings.learning_rate,
            batch=settings.attack_batch,
            drawings=drawings_of(settings),
            batch_size=settings.batch_size * 2,
        )

    def variants(self, target: Target) -> tuple[str, ...]:
        """Every start at every guidance; an image without siblings starts at an unrelated prompt instead."""
        names = super().variants(target)
        return names if siblings_of(target) else tuple(one.replace("sibling", "other") for one in names)

    def draw(self, model: LiveModel, target: Target) -> Iterator[Point]:
        """Optimize from every start at once; see `Attack.draw`."""
        seeds = self.seeds(target)
        clean = encode_pictures(model, target.image[None])[0]
        for step, conditioning in optimize_embeddings(
            model, clean, starts_for(model, target, self.starts, seeds), self, seeds
        ):
            yield Point(step, partial(self._pictures, model, conditioning))

    def _pictures(
        self,
        model: LiveModel,
        conditioning: Conditioning,
        places: Sequence[int],
        picture_seeds: Sequence[int],
    ) -> torch.Tensor:
        def draw(starts: list[int], drawing: Drawing) -> torch.Tensor:
            return draw_conditioned(model, conditioning.select(torch.tensor(starts)), picture_seeds, drawing)

        return draw_by_guidance(places, self.drawings, draw)


def restarts_of(count: int) -> tuple[str, ...]:
    """`count` starts: the prompt first, then Gaussian, another prompt, a sibling's, and round again."""
    return tuple(STARTS[index % len(STARTS)] for index in range(count))


def siblings_of(target: Target) -> tuple[str, ...]:
    """Captions of the corpus, never the image's own, the nearest first."""
    known = dict.fromkeys((*target.near, *(sibling.prompt for sibling in target.siblings)))
    return tuple(one for one in known if one != target.prompt)[:OTHERS_ENCODED]


def starts_for(model: LiveModel, target: Target, starts: Sequence[str], seeds: Sequence[int]) -> Conditioning:
    """The embeddings at which an attack on the target begins, one per start."""
    strangers = [one for one in target.others if one != target.prompt][:OTHERS_ENCODED] or [""]
    siblings = siblings_of(target) or strangers
    own, strange, near = (encode_prompts(model, list(one)) for one in ([target.prompt], strangers, siblings))
    return start_embeddings(starts, own, strange, seeds, near)


def start_embeddings(
    starts: Sequence[str],
    own: Conditioning,
    others: Conditioning,
    seeds: Sequence[int],
    siblings: Conditioning | None = None,
) -> Conditioning:
    """The embeddings that the restarts begin at.

    Args:
        starts: one word per restart.
        own: the conditioning of the prompt itself [1, tokens, width].
        others: of unrelated prompts; each "other" restart takes one of them, chosen by its seed.
        seeds: one per restart.
        siblings: of captions of the same corpus, for "sibling" restarts; the others where there are none.

    Returns:
        The conditioning of len(starts) restarts; added inputs (SDXL) stay those of the prompt they came from.
    """
    spread, center = own.embeddings.float().std(), own.embeddings.float().mean()
    found = None
    for start, seed in zip(starts, seeds, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        if start in ("other", "sibling"):
            known = siblings if start == "sibling" and siblings is not None else others
            one = known.select(torch.randint(len(known), (1,), generator=generator).to(own.embeddings.device))
        elif start == "gaussian":
            noise = torch.randn(own.embeddings.shape, generator=generator).to(own.embeddings.device)
            one = Conditioning((center + spread * noise).to(own.embeddings.dtype), own.added)
        else:
            one = own
        found = one if found is None else found.join(one)
    assert found is not None
    return found


def optimize_embeddings(
    model: LiveModel,
    clean: torch.Tensor,
    starts: Conditioning,
    attack: EmbeddingAttack,
    seeds: Sequence[int],
) -> Iterator[tuple[int, Conditioning]]:
    """Run the attack on one image from every start at once, stopping at each point of the curve.

    Args:
        clean: the training image's scaled latent [channels, height, width], or one for each restart.
        starts: conditioning of n restarts.
        seeds: one per restart, of its noise and timesteps.

    Yields:
        (steps made, the conditioning of the n restarts as it stands), at each point of `attack.curve`.

    Raises:
        SurgeryError: memory runs out for a single sample, or the gradient is not finite.
    """
    embeddings = starts.embeddings.detach().float().clone()

    def predict(noised: torch.Tensor, timesteps: torch.Tensor, restart: torch.Tensor) -> torch.Tensor:
        added = {name: value[restart] for name, value in starts.added.items()}
        return predicted(model, noised, timesteps, Conditioning(embeddings[restart], added))

    for step in descend(model, clean, [embeddings], predict, attack, seeds):
        # a copy: Adam goes on to change the embedding in place
        yield step, Conditioning(embeddings.detach().clone().to(model.dtype), starts.added)
