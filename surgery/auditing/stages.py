"""The first measuring stages of an audit, replication and ordinary prompts, and the unit they are made of.

A unit is measured once, kept in the store, and skipped when the audit goes on after a kill. Before it starts,
its cost in sample-forwards is asked of the budget; a unit that does not fit is None, and so is everything
that depends on it. The order is that in which a short budget tells most: replication of every prompt,
ordinary prompts, the attack on every control image, then prompt after prompt on PATCHED and on SOURCE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from surgery.auditing.budget import Budget
from surgery.auditing.measures.pictures import reconstruct
from surgery.auditing.measures.replication import (
    equal_seed_similarity,
    generate,
    seed_similarity,
    similarities_to,
)
from surgery.auditing.measures.similarity import Similarity
from surgery.auditing.measures.utility import ordinary_change
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import Store, pack
from surgery.auditing.subjects import Subject
from surgery.model.pipeline import LiveModel

PICTURES_KEPT = 4  # of each prompt and model, for the report
STAND_IN_SEEDS = 4  # pictures of SOURCE among which a missing training image is stood in for
PICTURE_FIELDS = ("pictures", "target", "picture")
SEED_GAP = 100_000  # between seeds of different use

Unit = dict[str, Any]


@dataclass
class Bench:
    """Two models side by side, and how they are measured."""

    source: LiveModel
    patched: LiveModel
    settings: AuditSettings
    similarity: Similarity
    store: Store
    budget: Budget
    quiet: bool = False

    def unit(self, key: str, cost: int, measure: Callable[[], Unit]) -> Unit | None:
        """The unit from the store, or measured now, or None where the budget does not allow it.

        Pictures stay in the store (`Store.load` has them): of a large corpus they would fill the memory.
        """
        found = self.store.load(key)
        if found is not None:
            return _without_pictures(found)
        if not self.budget.allows(cost):
            return None
        before, started = self.budget.work.unet_sample_forwards, time.perf_counter()
        with self.budget.work.stage(key.rsplit("-", 1)[0]):
            unit = measure()
        spent = self.budget.work.unet_sample_forwards - before
        unit = {**unit, "sample_forwards": spent, "seconds": round(time.perf_counter() - started, 3)}
        self.store.save(key, unit)
        return _without_pictures(unit)


def _without_pictures(unit: Unit) -> Unit:
    return {name: value for name, value in unit.items() if name not in PICTURE_FIELDS}


def replicate(bench: Bench, subjects: Sequence[Subject]) -> list[Unit | None]:
    """Draw every prompt with both models at equal seeds; one unit per prompt.

    A unit holds `before`, `after` (similarity to the target per seed), `seed_similarity` of each,
    `equal_seeds`, `stand_in`, `target` and `pictures` (PNGs). Without a training image, the picture of SOURCE
    that is most like its other pictures stands in for it, drawn at seeds of its own.
    """
    settings = bench.settings
    cost = settings.drawing().forwards(2 * settings.seeds)
    units = []
    for index, subject in enumerate(
        tqdm(subjects, "replication", unit="prompt", disable=bench.quiet or None)
    ):
        extra = 0 if subject.image is not None else settings.drawing().forwards(STAND_IN_SEEDS)

        def measure(subject: Subject = subject) -> Unit:
            target = _target(bench, subject)
            before, after = (
                generate(model, [subject.prompt], settings.audit_seeds, settings.drawing(), work, True)[0]
                for model, work in ((bench.source, bench.budget.work), (bench.patched, bench.budget.work))
            )
            mask, measured = subject.mask, bench.similarity
            return {
                "before": similarities_to(before, target, measured, mask).tolist(),
                "after": similarities_to(after, target, measured, mask).tolist(),
                "seed_similarity": {
                    "before": seed_similarity(before, measured, mask),
                    "after": seed_similarity(after, measured, mask),
                },
                "equal_seeds": equal_seed_similarity(before, after, measured, mask).tolist(),
                "stand_in": subject.image is None,
                "target": pack(target[None])[0],
                "pictures": {"before": pack(before[:PICTURES_KEPT]), "after": pack(after[:PICTURES_KEPT])},
            }

        units.append(bench.unit(f"replication-{index}", cost + extra, measure))
    return units


def _target(bench: Bench, subject: Subject) -> torch.Tensor:
    """What the prompt's pictures are compared with: uint8 [3, height, width]."""
    if subject.image is not None:
        image = subject.image
        return image if bench.settings.raw_images else reconstruct(bench.source, image[None])[0]
    first = bench.settings.first_seed + SEED_GAP
    drawn = generate(
        bench.source,
        [subject.prompt],
        range(first, first + STAND_IN_SEEDS),
        bench.settings.drawing(),
        bench.budget.work,
        quiet=True,
    )[0]
    alike = [float(similarities_to(drawn, one, bench.similarity).sum()) for one in drawn]
    return drawn[alike.index(max(alike))]


def ordinary(bench: Bench, prompts: Sequence[str]) -> list[Unit | None]:
    """The ordinary change of every prompt, and its pictures at equal seeds; one unit per prompt.

    A unit holds `change`, `by_timestep`, `timesteps`, `equal_seeds` (similarity of the models' pictures per
    seed), `other_seed` (similarity of SOURCE's own pictures, or None for one picture), `pictures`.
    """
    settings = bench.settings
    seeds = [settings.first_seed + 2 * SEED_GAP + k for k in range(settings.ordinary_seeds)]
    cost = 2 * settings.timesteps * len(seeds)
    cost += settings.drawing().forwards(2 * settings.ordinary_pictures)
    units = []
    for index, prompt in enumerate(tqdm(prompts, "ordinary", unit="prompt", disable=bench.quiet or None)):

        def measure(prompt: str = prompt) -> Unit:
            work = bench.budget.work
            change = ordinary_change(
                bench.source,
                bench.patched,
                [prompt],
                seeds,
                settings.timesteps,
                settings.batch_size * 2,
                work,
                True,
            )
            drawn_at = seeds[: settings.ordinary_pictures]
            before, after = (
                generate(model, [prompt], drawn_at, settings.drawing(), work, True)[0]
                for model in (bench.source, bench.patched)
            )
            several = len(drawn_at) > 1
            return {
                "change": change.total,
                "timesteps": list(change.timesteps),
                "by_timestep": list(change.by_timestep),
                "equal_seeds": equal_seed_similarity(before, after, bench.similarity).tolist(),
                "other_seed": seed_similarity(before, bench.similarity) if several else None,
                "pictures": {"before": pack(before), "after": pack(after)},
            }

        units.append(bench.unit(f"ordinary-{index}", cost, measure))
    return units
