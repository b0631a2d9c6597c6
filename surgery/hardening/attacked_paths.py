"""States that an attacker's pictures pass through: the student's own guided paths under its latest attacks.

Gradient attacks descend on noised copies of the image, but their pictures are drawn along other states, and
with guidance: what little the student says of the image is said several times over, step after step. So the
states of such paths are drawn anew after every attack, and the teacher is asked there what it would say under
the memory's own prompt (learning on the learner's own states: DAgger, arXiv 1011.0686).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.hardening.lessons import Lessons, draw_paths
from surgery.model.ablation import ablate
from surgery.model.conditioning import Conditioning
from surgery.model.pipeline import LiveModel
from surgery.neurons import NeuronSet

GUIDANCE = 3.0
POSITIONS = 8  # states of each path


@torch.no_grad()
def attacked_paths(
    student: LiveModel,
    source: LiveModel,
    neurons: NeuronSet,
    attacked: Conditioning,
    empty: Conditioning,
    safe: Conditioning,
    seeds: Sequence[int],
    batch_size: int,
) -> Lessons:
    """One path of the student for each of n attacked embeddings, and what the teacher says along it.

    Args:
        source: the teacher is SOURCE without the rows of `neurons`.
        attacked: of n samples.
        empty: the conditioning of the empty prompt.
        safe: of n prompts, of which the teacher draws what they should draw.
        seeds: one per sample. Cost: 3 x `POSITIONS` sample-forwards each.

    Returns:
        n * `POSITIONS` lessons, numbered by sample.
    """
    lessons, _ = draw_paths(student, attacked, seeds, POSITIONS, batch_size, empty, GUIDANCE)
    answers = []
    with ablate(source.denoiser, neurons):
        for part in torch.arange(len(lessons)).split(batch_size):
            states, timesteps, places = lessons.states[part], lessons.timesteps[part], lessons.prompts[part]
            answers.append(predicted(source, states, timesteps, safe.select(places)).cpu())
    return Lessons(lessons.states, lessons.timesteps, torch.cat(answers), lessons.prompts)
