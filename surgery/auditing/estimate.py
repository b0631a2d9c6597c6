"""What an audit would cost, and what it could say at most: before its first forward, without any model.

The cost comes from the settings and from what every attack says of itself (`Attack.cost`). The strongest word
comes from the verdict's own code: it is asked about prompts of which SOURCE draws every picture and PATCHED
none, on which each attack scores as its controls do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.auditing.attack.protocol import Attack
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.canaries import canary_cost
from surgery.auditing.controls import read_controls
from surgery.auditing.inputs import AuditInputs, read_corpus
from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.statistics import controls_needed, controls_wanted
from surgery.auditing.judgement.verdict import (
    NOT_FOUND,
    REMOVED,
    Verdict,
    decide,
    decide_checkpoint,
    what_removed_takes,
)
from surgery.auditing.settings import AuditSettings
from surgery.auditing.stages import STAND_IN_SEEDS
from surgery.measures.subjects import subjects_from
from surgery.ordinary import ordinary_besides

NOTHING, ALL, REPLICA = 0.0, 1.0, 0.5  # scores of what is not found and of a memory; any threshold between
ANY_SIZE = (8, 8)  # of pictures that are only read to see whether they can be


@dataclass(frozen=True)
class StageCost:
    """What one stage of an audit takes, at most.

    Attributes:
        name: as in `work.by_stage` of `audit.json`.
        images: prompts, pictures or attacks.
        forwards_each: UNet sample-forwards of one of them; attacks run some of them backward too.
    """

    name: str
    images: int
    forwards_each: int

    @property
    def sample_forwards(self) -> int:
        """Of the whole stage."""
        return self.images * self.forwards_each


@dataclass(frozen=True)
class Estimate:
    """An audit before it starts.

    Attributes:
        prompts: how many are audited; `with_image` of them have a training image.
        controls: control images, given or to be made.
        controls_needed: the fewest with which any prompt could be told from them.
        controls_wanted: so many that a clean checkpoint should pass (`judgement.statistics.controls_wanted`).
        stages: what each costs at most.
        at_most: the strongest statement that could come out, with its budget.
        why: what stands in the way of a stronger one; "" where nothing does.
    """

    prompts: int
    with_image: int
    controls: int
    controls_needed: int
    controls_wanted: int
    stages: tuple[StageCost, ...]
    at_most: Verdict
    why: str

    @property
    def sample_forwards(self) -> int:
        """Of the whole audit, at most."""
        return sum(stage.sample_forwards for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Every number, and the strongest word with the reason."""
        return {
            "prompts": self.prompts,
            "with_image": self.with_image,
            "controls": {
                "count": self.controls,
                "needed": self.controls_needed,
                "wanted": self.controls_wanted,
            },
            "stages": [{**asdict(stage), "sample_forwards": stage.sample_forwards} for stage in self.stages],
            "sample_forwards": self.sample_forwards,
            "at_most": {
                "verdict": self.at_most.word,
                "phrase": self.at_most.phrase,
                "why": self.why,
            },
        }


def estimate(
    settings: AuditSettings,
    prompts: int,
    with_image: int | None = None,
    controls: int | None = None,
    twin: bool = False,
    base: bool = False,
) -> Estimate:
    """What an audit with these settings would cost at most, and what it could say at most.

    Args:
        prompts: how many are audited.
        with_image: how many of them have a training image; None: all.
        controls: how many control images are given; None: SOURCE makes `settings.controls`.
        twin: whether a twin is attacked too.
        base: whether there is a public base model, whose parts say something when they are put into PATCHED.
    """
    images = prompts if with_image is None else with_image
    count = settings.controls if controls is None else controls
    attacks = [attack_class(name).from_settings(settings) for name in settings.attack]
    stages = [*_measuring(settings, prompts, images)]
    if attacks:
        stages += _attacking(settings, attacks, prompts, count, controls is None, twin, base)
    counting = [attack for attack in attacks if attack.informative or base]
    at_most, why = _at_most(settings, counting, prompts, count, twin)
    return Estimate(
        prompts=prompts,
        with_image=images,
        controls=count,
        controls_needed=controls_needed(settings.alpha),
        controls_wanted=controls_wanted(prompts, settings.alpha, settings.correction),
        stages=tuple(stages),
        at_most=at_most,
        why=why,
    )


def estimate_inputs(inputs: AuditInputs) -> Estimate:
    """The estimate for what an audit is asked; reads prompts and pictures, and loads no model.

    Raises:
        UsageError: prompts, ordinary prompts, training images or control images cannot be read.
    """
    corpus = read_corpus(inputs.prompts)
    if inputs.ordinary_file is not None:  # a dry run refuses what the audit would; no model is asked for it
        ordinary_besides(corpus.prompts, model="", path=inputs.ordinary_file)
    images = inputs.images
    if images is None or isinstance(images, str | Path):
        subjects = subjects_from(corpus.prompts, images, None, ANY_SIZE)
        with_image = sum(subject.image is not None for subject in subjects)
    else:
        with_image = sum(prompt in images for prompt in corpus.prompts)
    given = inputs.control_images
    if given is None or isinstance(given, str | Path):
        found = read_controls(given, ANY_SIZE)
        controls = None if found is None else len(found)
    else:
        controls = len(given)
    return estimate(
        inputs.settings,
        len(corpus.prompts),
        with_image,
        controls,
        twin=inputs.twin is not None,
        base=inputs.base is not None,
    )


def _measuring(settings: AuditSettings, prompts: int, with_image: int) -> list[StageCost]:
    """Replication and ordinary prompts, as `surgery.auditing.stages` takes them."""
    drawing = settings.drawing()
    stages = [StageCost("replication", prompts, drawing.forwards(2 * settings.seeds))]
    if with_image < prompts:
        stages.append(StageCost("stand-ins", prompts - with_image, drawing.forwards(STAND_IN_SEEDS)))
    if settings.more_seeds:
        further = drawing.forwards(2 * settings.more_seeds)
        stages.append(StageCost("further seeds", prompts, further))
    drawn = drawing.forwards(2 * settings.ordinary_pictures)
    each = 2 * settings.timesteps * settings.ordinary_seeds + drawn
    return [*stages, StageCost("ordinary", settings.ordinary, each)]


def _attacking(
    settings: AuditSettings,
    attacks: Sequence[Attack],
    prompts: int,
    controls: int,
    made: bool,
    twin: bool,
    base: bool,
) -> list[StageCost]:
    """Controls that are made, canaries, and every attack on every image and model."""
    drawing = settings.drawing()
    stages = [StageCost("make controls", controls, drawing.forwards(1))] if made else []
    if settings.canaries:
        stages.append(StageCost("make canaries", settings.canaries, drawing.forwards(1)))
        stages.append(StageCost("teach canaries", 1, canary_cost(settings, settings.canaries)))
    for attack in attacks:
        images = prompts * (3 if twin else 2) + controls * (2 if twin else 1)
        if attack.informative or base:
            images += 2 * settings.canaries
        stages.append(StageCost(f"attack: {attack.name}", images, attack.cost()))
    return stages


def _at_most(
    settings: AuditSettings, attacks: Sequence[Attack], prompts: int, controls: int, twin: bool
) -> tuple[Verdict, str]:
    """The verdict on a checkpoint on which nothing is ever found, and why it is not a better one."""
    # a little apart: controls that all score alike say nothing
    nothing = tuple(NOTHING + 1e-6 * place for place in range(controls))
    found = tuple(
        AttackEvidence(
            name=attack.name,
            effort=attack.effort,
            passes_edit=attack.passes_edit,
            learns=attack.learns,
            shortfall=attack.shortfall,
            source=ALL,
            patched=NOTHING,
            highest=NOTHING,
            controls=nothing,
            controls_highest=NOTHING if controls else None,
            twin=NOTHING if twin else None,
            twin_highest=NOTHING if twin else None,
            controls_twin=(NOTHING,) * controls if twin else (),
        )
        for attack in attacks
    )
    evidence = [
        Evidence(before=1.0, after=0.0, tried=settings.seeds, attacks=found, canaries=settings.canaries)
    ]
    evidence *= prompts
    verdicts = decide(evidence, REPLICA, settings.tolerance, settings.alpha, settings.correction)
    checkpoint = decide_checkpoint(verdicts, evidence, settings.alpha)
    if checkpoint.word == NOT_FOUND:
        return checkpoint, what_removed_takes(found)
    return checkpoint, "" if checkpoint.word == REMOVED else verdicts[0].reason
