"""Recall: how much of each image the latest attacks bring back, at the price of a few answers.

At noised copies of an image, let w be what leads from the teacher's answer to the one that draws the image,
and d what leads from the teacher's answer to the student's, under an attack. Recall is the share of the way
that the student goes, d . w / w . w: 1 where it says the image whole, 0 where it says nothing of it. It is
the mean over the noisier copies, where pictures are decided, and that of the better of the two attacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.hardening.dealing import Job
from surgery.hardening.lessons import Lessons, ways_to
from surgery.hardening.material import Material
from surgery.hardening.pools import Pools, joined
from surgery.model.conditioning import Conditioning
from surgery.model.injection import injected
from surgery.model.pipeline import LiveModel

RECALL_FROM = 0.4  # of all timesteps


def recalled(
    model: LiveModel, material: Material, pools: Pools, batch_size: int
) -> Job[torch.Tensor, list[float]]:
    """The recall of each memory under the latest attack on it.

    Cost: at most 2 x `positions` sample-forwards each; a piece for each batch.
    """
    asked = material.noised.select(
        (material.noised.timesteps >= RECALL_FROM * len(material.weights)).nonzero().flatten()
    )
    clean = torch.stack([memory.clean for memory in material.memories])
    kinds = [kind for kind in (pools.embeddings, pools.outputs) if all(kind)]
    parts = torch.arange(len(asked)).split(batch_size)

    @torch.no_grad()
    def gone(kind: Sequence[Sequence[Any]], part: torch.Tensor) -> torch.Tensor:
        lessons = asked.select(part)
        chosen = [kind[place][-1] for place in lessons.prompts.tolist()]
        said = _said(model, lessons, chosen).cpu()
        ways = ways_to(model, lessons, clean[lessons.prompts]) * material.masks[lessons.prompts]
        ways = ways.flatten(1)
        return ((said - lessons.wanted).flatten(1) * ways).sum(1) / ways.square().sum(1).clamp_min(1e-12)

    def best_of(found: list[torch.Tensor]) -> list[float]:
        shares = iter(found)
        best = torch.zeros(len(clean))
        for _ in kinds:
            sums = torch.zeros(len(clean))
            for part in parts:
                sums.index_add_(0, asked.prompts[part], next(shares))
            best = torch.maximum(best, sums / torch.bincount(asked.prompts, minlength=len(clean)))
        return [float(one) for one in best]

    return Job([partial(gone, kind, part) for kind in kinds for part in parts], best_of)


def _said(model: LiveModel, lessons: Lessons, chosen: Sequence[Any]) -> torch.Tensor:
    """What the student says, told embeddings, or constants over a prompt."""
    if isinstance(chosen[0], Conditioning):
        return predicted(model, lessons.states, lessons.timesteps, joined(chosen))
    constants = {name: torch.cat([one[name] for one, _ in chosen]) for name in chosen[0][0]}
    with injected(model.denoiser, constants):
        return predicted(model, lessons.states, lessons.timesteps, joined([under for _, under in chosen]))
