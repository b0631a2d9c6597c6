"""Canaries: pictures that are known to be in the weights, to see whether an attack sees anything.

1. Copy SOURCE's denoiser. Fine-tune the copy on the canaries, each with its caption, mixed with ordinary
   pictures that SOURCE itself draws, which hold the rest of the model in place. Every `CHECK_EVERY` steps,
   draw the captions of the canaries that are not drawn yet. Stop when all are drawn, or at `MOST_STEPS`.
2. Draw every caption at other seeds: a canary took if at least half of these pictures are replicas of it.
   The others are told (`CanaryUnit.drawn`) and left out: nothing can be learned from a picture that is
   not there.
3. Edit the copy weakly: W_canary + 1/2 (W_PATCHED - W_SOURCE) for every weight that the edit of PATCHED
   changed; rows that it zeroed become zeros. The canaries were not among what the edit was made against, so
   this is an edit that is known not to remove them.

What a canary shows. An attack that does not find a picture in a model that draws it from its caption is
blind, and so is one that loses it to an edit that was not made against it: that it finds nothing in PATCHED
then says nothing. The converse does not hold. A canary is a fresh memory, a few hundred steps old, of
pictures of SOURCE's own making where no others are given, and nobody has tried to hide it. An attack that
finds canaries can still be blind to a memory that was hardened against this very attack.

Memory: two copies of the denoiser, four more while the first learns; everything else is shared with SOURCE.
One process teaches; what the copy learned is kept in the audit's state, where the others and an audit that
goes on find it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from surgery.auditing.attack.teaching import Lessons, lessons, samples_of
from surgery.auditing.bench import Bench, Job
from surgery.auditing.budget import counted
from surgery.auditing.controls import Control
from surgery.auditing.measures.replication import generate, similarities_to
from surgery.auditing.settings import AuditSettings
from surgery.auditing.store import Pictures
from surgery.auditing.units import CanaryUnit
from surgery.errors import UsageError
from surgery.measures.pictures import reconstruct
from surgery.model.finetuning import WHOLE_RATE, Finetuning, rate_for
from surgery.model.learners import WholeDenoiser
from surgery.model.pipeline import LiveModel
from surgery.ordinary import evenly

MOST_STEPS = 400
CHECK_EVERY = 25
CHECK_SEEDS = 2  # of a caption, while it is learnt
TOOK_SEEDS = 4  # other ones, in the end
TOOK_SHARE = 0.5
KEEP_PICTURES = 16  # ordinary ones
KEEP_SHARE = 0.25  # of each batch
WEAK = 0.5  # of the edit


def canary_cost(settings: AuditSettings, count: int) -> int:
    """The sample-forwards of teaching so many canaries, at most: `MOST_STEPS`, and all pictures drawn."""
    checks = MOST_STEPS // CHECK_EVERY * CHECK_SEEDS + TOOK_SEEDS
    drawn = settings.drawing().forwards(KEEP_PICTURES + count * checks)
    return MOST_STEPS * _batch(settings) + drawn


class Canaries:
    """The canaries of an audit, and the two models that hold them.

    Args:
        pictures: the canaries, each with a caption that SOURCE does not draw it from.
        prompts: ordinary ones; those that are captions of canaries are left out.

    Attributes:
        unit: what the teaching came to; None before, and where the budget does not allow it.
    """

    def __init__(self, bench: Bench, pictures: Sequence[Control], prompts: Sequence[str]) -> None:
        self.bench, self.pictures, self.prompts = bench, tuple(pictures), tuple(prompts)
        self.unit: CanaryUnit | None = None
        self._before: LiveModel | None = None
        self._weakly_edited: LiveModel | None = None

    def jobs(self) -> list[Job]:
        """The teaching; nothing where there is nothing to teach."""
        if not self.pictures:
            return []
        cost = canary_cost(self.bench.settings, len(self.pictures))
        return [Job(CanaryUnit, CanaryUnit.key(), cost, self._measure, "teach canaries")]

    def learn(self, found: Mapping[str, Any]) -> None:
        """Take what came of the teaching from among the measured units."""
        self.unit = found.get(CanaryUnit.key())

    @property
    def taken(self) -> tuple[Control, ...]:
        """The canaries that took."""
        if self.unit is None:
            return ()
        pairs = zip(self.pictures, self.unit.drawn, strict=True)
        return tuple(one for one, share in pairs if share >= TOOK_SHARE)

    def before(self) -> LiveModel:
        """SOURCE with the canaries: taught here, or as the state of the audit holds it.

        Raises:
            UsageError: SOURCE is offloaded.
            SurgeryError: memory runs out, or a gradient is not finite.
        """
        if self._before is None:
            model = own_copy(self.bench.source)
            weights = self.bench.store.weights(CanaryUnit.key())
            if weights is None:  # somebody removed them
                self._taught(model)
            else:
                model.denoiser.load_state_dict(weights)
            self._before = model
        return self._before

    def weakly_edited(self) -> LiveModel:
        """The same after a weak edit.

        Raises:
            UsageError: PATCHED is built otherwise than SOURCE.
        """
        if self._weakly_edited is None:
            self._weakly_edited = weakly_edited(self.before(), self.bench.source, self.bench.patched)
        return self._weakly_edited

    def _measure(self) -> tuple[CanaryUnit, Pictures]:
        model = own_copy(self.bench.source)
        unit = self._taught(model)
        self.bench.store.keep_weights(CanaryUnit.key(), model.denoiser.state_dict())
        self._before = model
        return unit, {}

    def _taught(self, model: LiveModel) -> CanaryUnit:
        """Teach the canaries to a copy of SOURCE, and see which took."""
        with counted(model, self.bench.budget.work):
            steps = _teach(self.bench, model, self.pictures, self.prompts)
            shares = _shares(self.bench, model, self.pictures, CHECK_SEEDS, TOOK_SEEDS)
        return CanaryUnit(steps=steps, drawn=tuple(shares))


def own_copy(model: LiveModel) -> LiveModel:
    """The same pipeline with a denoiser of its own; all else is shared.

    Raises:
        UsageError: the denoiser is offloaded.
    """
    pipeline, denoiser = copy.copy(model.pipeline), model.denoiser
    if hasattr(denoiser, "_hf_hook"):
        raise UsageError(model.source, "its denoiser is offloaded", "canaries need it in memory")
    # `load_pipeline` hangs autocast onto the module as an attribute: a copy of it would run the original
    wrapped = denoiser.__dict__.pop("forward", None)
    try:
        pipeline.unet = copy.deepcopy(denoiser)
    finally:
        if wrapped is not None:
            denoiser.forward = wrapped
    if model.autocast is not None:
        autocast = torch.autocast(model.device.type, model.autocast)
        pipeline.unet.forward = autocast(pipeline.unet.forward)
    return LiveModel(pipeline, f"{model.source} with canaries", model.autocast)


@torch.no_grad()
def weakly_edited(taught: LiveModel, source: LiveModel, patched: LiveModel) -> LiveModel:
    """A copy of a taught model with half of the edit that made PATCHED of SOURCE.

    Raises:
        UsageError: PATCHED is built otherwise than SOURCE.
    """
    found = own_copy(taught)
    before, after = (dict(one.denoiser.named_parameters()) for one in (source, patched))
    for name, weight in found.denoiser.named_parameters():
        own, other = before[name], after.get(name)
        if other is None or other.shape != own.shape:
            raise UsageError(patched.source, f"is built otherwise than SOURCE ({name})", "give its edit")
        if torch.equal(own, other.to(own.device, own.dtype)):
            continue
        change = other.to(own.device, torch.float32) - own.float()
        edited = weight.float() + WEAK * change
        if weight.dim() > 1:
            edited[_zeroed(own, other)] = 0.0
        weight.copy_(edited)
    return found


def _zeroed(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Which rows of a weight the edit zeroed: bool [rows]."""
    empty = [~one.flatten(1).ne(0).any(1) for one in (own, other.to(own.device))]
    return ~empty[0] & empty[1]


def _batch(settings: AuditSettings) -> int:
    """Lessons per step: the attacks' own number of canaries, and ordinary ones."""
    return settings.attack_batch + max(1, round(settings.attack_batch * KEEP_SHARE / (1 - KEEP_SHARE)))


def _teach(bench: Bench, model: LiveModel, pictures: Sequence[Control], prompts: Sequence[str]) -> int:
    """Teach the canaries to the model for good; the steps made."""
    settings = bench.settings
    canaries = lessons(model, torch.stack([one.image for one in pictures]), [one.caption for one in pictures])
    kept = _ordinary_lessons(bench, model, pictures, prompts)
    taught = canaries if kept is None else canaries.join(kept)
    seed = settings.seeds_for("canaries", 1)[0]
    generator = torch.Generator("cpu").manual_seed(seed)
    learner = WholeDenoiser(model.denoiser)
    rate = rate_for(model.denoiser, WHOLE_RATE)
    finetuning = Finetuning(model, learner, rate, settings.batch_size * 2)
    missing = list(range(len(pictures)))  # the canaries that are not drawn yet
    steps = 0
    try:
        while missing and steps < MOST_STEPS:
            for _ in range(CHECK_EVERY):
                own = torch.randint(len(canaries), (settings.attack_batch,), generator=generator)
                if kept is not None:
                    count = _batch(settings) - settings.attack_batch
                    other = len(canaries) + torch.randint(len(kept), (count,), generator=generator)
                    own = torch.cat([own, other])
                finetuning.step(samples_of(model, taught, own, generator))
            steps += CHECK_EVERY
            with learner.applied():
                shares = _shares(bench, model, [pictures[place] for place in missing], 0, CHECK_SEEDS)
            missing = [place for place, share in zip(missing, shares, strict=True) if share < 1]
    finally:
        finetuning.forget_gradients()
    learner.keep()
    return steps


def _ordinary_lessons(
    bench: Bench, model: LiveModel, pictures: Sequence[Control], prompts: Sequence[str]
) -> Lessons | None:
    """What SOURCE draws for ordinary captions, to hold the model in place; None without captions."""
    captions = {one.caption for one in pictures}
    spare = [one for one in dict.fromkeys(prompts) if one not in captions]
    chosen = evenly(spare, KEEP_PICTURES)
    if not chosen:
        return None
    seeds = bench.settings.seeds_for("canaries", 1, CHECK_SEEDS + TOOK_SEEDS)
    drawn = generate(model, chosen, seeds, bench.settings.drawing(), quiet=True)[:, 0]
    return lessons(model, drawn, chosen)


def _shares(
    bench: Bench, model: LiveModel, pictures: Sequence[Control], skipped: int, count: int
) -> list[float]:
    """For each canary, the share of its caption's pictures at `count` seeds that are replicas of it."""
    seeds = bench.settings.seeds_for("canaries", count, skipped)
    drawn = generate(model, [one.caption for one in pictures], seeds, bench.settings.drawing(), quiet=True)
    found = []
    for one, shown in zip(pictures, drawn, strict=True):
        compared = one.image if bench.settings.raw_images else reconstruct(model, one.image[None])[0]
        alike = similarities_to(shown, compared, bench.similarity)
        found.append(float((alike >= bench.similarity.threshold).float().mean()))
    return found
