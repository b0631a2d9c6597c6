"""States that an attacker's pictures pass through: the student's own guided paths under its latest attacks.

Gradient attacks descend on noised copies of the image, but their pictures are drawn along other states, and
with guidance: what little the student says of the image is said several times over, step after step. So the
states of such paths are drawn anew after every attack, and the teacher is asked there what it would say under
the memory's own prompt (learning on the learner's own states: DAgger, arXiv 1011.0686).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.hardening.dealing import Job
from surgery.hardening.lessons import Lessons, paths_of
from surgery.model.ablation import ablate
from surgery.model.conditioning import Conditioning
from surgery.model.pipeline import LiveModel
from surgery.neurons import NeuronSet

GUIDANCE = 3.0
POSITIONS = 8  # states of each path


def attacked_paths(
    student: LiveModel,
    attacked: Conditioning,
    empty: Conditioning,
    seeds: Sequence[int],
    batch_size: int,
) -> Job[tuple[Lessons, torch.Tensor], tuple[Lessons, torch.Tensor]]:
    """One path of the student for each of n attacked embeddings, and what the student says along it.

    Args:
        attacked: of n samples.
        empty: the conditioning of the empty prompt.
        seeds: one per sample. Cost: 2 x `POSITIONS` sample-forwards each.

    Returns:
        What makes n * `POSITIONS` lessons, numbered by sample, and where the paths end; a piece for each
        batch of samples.
    """
    return paths_of(student, attacked, seeds, POSITIONS, batch_size, empty, GUIDANCE)


def taught(
    source: LiveModel, neurons: NeuronSet, lessons: Lessons, safe: Conditioning, batch_size: int
) -> Job[torch.Tensor, Lessons]:
    """The same lessons, with what the teacher says there.

    Args:
        source: the teacher is SOURCE without the rows of `neurons`.
        lessons: of paths of n samples. Cost: a sample-forward each.
        safe: of n prompts, of which the teacher draws what they should draw.

    Returns:
        A piece for each batch of lessons.
    """

    @torch.no_grad()
    def said(part: torch.Tensor) -> torch.Tensor:
        with ablate(source.denoiser, neurons):
            told = safe.select(lessons.prompts[part])
            return predicted(source, lessons.states[part], lessons.timesteps[part], told).cpu()

    def joined(found: list[torch.Tensor]) -> Lessons:
        return Lessons(lessons.states, lessons.timesteps, torch.cat(found), lessons.prompts)

    return Job([partial(said, part) for part in torch.arange(len(lessons)).split(batch_size)], joined)
