"""The first measuring stages of an audit: replication, and ordinary prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surgery.auditing.bench import PICTURES_KEPT, Bench, Job
from surgery.auditing.measures.replication import (
    equal_seed_similarity,
    generate,
    seed_similarity,
    similarities_to,
)
from surgery.auditing.measures.utility import ordinary_change
from surgery.auditing.store import Pictures
from surgery.auditing.units import DrawnSeeds, OrdinaryUnit, ReplicationUnit
from surgery.measures.pictures import reconstruct
from surgery.measures.subjects import Subject
from surgery.model.pipeline import LiveModel

STAND_IN_SEEDS = 4  # pictures of SOURCE among which a missing training image is stood in for


def replication_jobs(bench: Bench, subjects: Sequence[Subject]) -> list[Job]:
    """Draw every prompt with both models at equal seeds; one unit per prompt.

    A prompt without a training image gets a stand-in target: the picture of SOURCE that is most like its
    other pictures, drawn at seeds of its own. Where SOURCE replicates on none of the seeds, both models are
    drawn at more of them before the prompt is said to be no memory.
    """
    drawing, settings = bench.settings.drawing(), bench.settings
    seeds, more = settings.audit_seeds, settings.further_seeds
    jobs = []
    for index, subject in enumerate(subjects):
        extra = 0 if subject.image is not None else STAND_IN_SEEDS

        def measure(subject: Subject = subject) -> tuple[ReplicationUnit, Pictures]:
            target = _target(bench, subject)
            before = _draw(bench, bench.source, subject.prompt, seeds)
            after = _draw(bench, bench.patched, subject.prompt, seeds)
            alike = similarities_to(before, target, bench.similarity, subject.mask)
            if more and float(alike.max()) < bench.similarity.threshold:
                before = torch.cat([before, _draw(bench, bench.source, subject.prompt, more)])
                after = torch.cat([after, _draw(bench, bench.patched, subject.prompt, more)])
            equal = equal_seed_similarity(before, after, bench.similarity, subject.mask)
            unit = ReplicationUnit(
                before=_drawn_seeds(bench, before, target, subject.mask),
                after=_drawn_seeds(bench, after, target, subject.mask),
                equal_seeds=tuple(equal.tolist()),
                stand_in=subject.image is None,
            )
            kept = {"before": before[:PICTURES_KEPT], "after": after[:PICTURES_KEPT]}
            return unit, {"target": target[None], **kept}

        cost = drawing.forwards(2 * (len(seeds) + len(more)) + extra)
        jobs.append(Job(ReplicationUnit, ReplicationUnit.key(index), cost, measure, "replication"))
    return jobs


def ordinary_jobs(bench: Bench, prompts: Sequence[str]) -> list[Job]:
    """The ordinary change of every prompt, and its pictures at equal seeds; one unit per prompt."""
    settings = bench.settings
    seeds = settings.seeds_for("ordinary", settings.ordinary_seeds)
    drawn_at = seeds[: settings.ordinary_pictures]
    cost = 2 * settings.timesteps * len(seeds) + settings.drawing().forwards(2 * len(drawn_at))
    jobs = []
    for index, prompt in enumerate(prompts):

        def measure(prompt: str = prompt) -> tuple[OrdinaryUnit, Pictures]:
            change = ordinary_change(
                bench.source,
                bench.patched,
                [prompt],
                seeds,
                settings.timesteps,
                batch_size=settings.batch_size * 2,
                work=bench.budget.work,
                quiet=True,
            )
            before = _draw(bench, bench.source, prompt, drawn_at)
            after = _draw(bench, bench.patched, prompt, drawn_at)
            unit = OrdinaryUnit(
                change=change.total,
                timesteps=change.timesteps,
                by_timestep=change.by_timestep,
                equal_seeds=tuple(equal_seed_similarity(before, after, bench.similarity).tolist()),
                other_seed=seed_similarity(before, bench.similarity) if len(drawn_at) > 1 else None,
            )
            return unit, {"before": before, "after": after}

        jobs.append(Job(OrdinaryUnit, OrdinaryUnit.key(index), cost, measure, "ordinary prompts"))
    return jobs


def _target(bench: Bench, subject: Subject) -> torch.Tensor:
    """What the prompt's pictures are compared with: uint8 [3, height, width]."""
    if subject.image is not None:
        image = subject.image
        return image if bench.settings.raw_images else reconstruct(bench.source, image[None])[0]
    seeds = bench.settings.seeds_for("stand-ins", STAND_IN_SEEDS)
    drawn = _draw(bench, bench.source, subject.prompt, seeds)
    alike = [float(similarities_to(drawn, one, bench.similarity).sum()) for one in drawn]
    return drawn[alike.index(max(alike))]


def _draw(bench: Bench, model: LiveModel, prompt: str, seeds: Sequence[int]) -> torch.Tensor:
    """uint8 [seeds, 3, height, width], booked on the audit's budget."""
    return generate(model, [prompt], seeds, bench.settings.drawing(), bench.budget.work, quiet=True)[0]


def _drawn_seeds(
    bench: Bench, pictures: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None
) -> DrawnSeeds:
    alike = similarities_to(pictures, target, bench.similarity, mask)
    return DrawnSeeds(tuple(alike.tolist()), seed_similarity(pictures, bench.similarity, mask))
