"""Findings made up in code: what an audit of many prompts and all attacks would hand to the report.

The numbers are invented, the classes are real: verdicts are drawn from them by the real code.
"""

import torch

from surgery.auditing.attack.registry import attack_class
from surgery.auditing.findings import AttackFindings, Findings
from surgery.auditing.judgement.verdict import decide, decide_checkpoint
from surgery.auditing.sensitivity import Sensitivity
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackPair, AttackUnit, DrawnSeeds, OrdinaryUnit, ReplicationUnit
from surgery.measures.similarity import named_similarity
from surgery.measures.subjects import Subject
from surgery.neurons import NeuronSet

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
CONTROLS = 24
ALIKE = named_similarity("edges")
PARTS = ("nothing", "cross-attention", "self-attention", "down block 0", "mid block", "up block 0", "rest")


def picture(number):
    """Colored patches: uint8 [3, 32, 32]."""
    patches = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(number)) * 255
    return torch.nn.functional.interpolate(patches, size=32, mode="nearest")[0].to(torch.uint8)


def attack_unit(
    final, steps=(0, 50, 200), variants=("prompt, guidance 1", "gaussian, guidance 3"), learns=False
):
    """An attack that comes to `final` at its last point, its second variant a little ahead."""
    points = [final * (place + 1) / len(steps) for place in range(len(steps))]
    if len(steps) == 1:  # parts: each its own
        by_variant = [[(final * place / len(variants),) * 2 for place in range(1, len(variants) + 1)]]
    else:
        by_variant = [[(0.9 * point,) * 2, (point,) * 2] for point in points]
    scored = [(point,) * 8 for point in points] if learns else [(final,) * 8]
    return AttackUnit(
        steps=steps,
        variants=variants,
        selection=(tuple(map(tuple, by_variant)),),
        chosen=((len(steps) - 1, len(variants) - 1),),
        scored=(tuple(scored),),
        highest=(final,),
    )


def attack_findings(name, left, settings, twin=False, blind=False):
    """One attack on every prompt: `left` of the memory comes back in PATCHED, one number a prompt."""
    attack = attack_class(name).from_settings(settings)
    shape = {"learns": attack.learns}
    if name == "graft":
        shape |= {"steps": (attack.effort,), "variants": PARTS}

    def unit(final):
        return attack_unit(final, **shape)

    floors = [unit(0.002 * number) for number in range(CONTROLS)]
    canaries = [unit(0.01 if blind else 0.9) for _ in range(4)]
    return AttackFindings(
        name=name,
        effort=attack.effort,
        passes_edit=attack.passes_edit,
        learns=attack.learns,
        counts=attack.informative,
        shortfall=attack.shortfall,
        controls=floors,
        controls_twin=floors if twin else (),
        pairs=[AttackPair(unit(0.9), unit(one), unit(0.02) if twin else None) for one in left],
        canaries=Sensitivity(5, 4, 0.1, ALIKE.threshold, canaries, canaries) if settings.canaries else None,
    )


def findings(attacks, settings, after=None, twin=False, blind=()):
    """Findings of as many prompts as every attack has numbers for; see `attack_findings`.

    Args:
        attacks: name -> how far each prompt's image comes back in PATCHED.
        after: similarity of what PATCHED draws from each prompt alone; default: nothing of it.
    """
    count = len(next(iter(attacks.values()))) if attacks else len(after)
    after = [0.05] * count if after is None else after
    found = Findings(
        settings=settings,
        similarity=ALIKE,
        subjects=[Subject(f"a secret caption {number}", picture(number)) for number in range(count)],
        ids=[f"p{number:012x}" for number in range(count)],
        ordinary_prompts=["a red circle", "blue ring"],
        public_ordinary=True,
        replication=[
            ReplicationUnit(
                before=DrawnSeeds((0.9,) * 4, 0.9),
                after=DrawnSeeds((value,) * 4, 0.1),
                equal_seeds=(0.1,) * 4,
                stand_in=False,
            )
            for value in after
        ],
        ordinary=[
            OrdinaryUnit(
                change=0.1, timesteps=(900, 500), by_timestep=(0.1, 0.1), equal_seeds=(0.9,), other_seed=0.1
            )
        ]
        * 2,
        attacks=[
            attack_findings(name, left, settings, twin, name in blind) for name, left in attacks.items()
        ],
        has_twin=twin,
        control_kind="given",
        mask_places=[0] * count,
        zeroed=NeuronSet({LAYER: [3, 5]}),
        layer_rows={LAYER: 16},
        models={
            side: {"name": side, "fingerprint": "0" * 64, "sha256": {}}
            for side in ("source", "patched", *(("twin",) if twin else ()))
        },
        work={"sample_forwards": 1, "seconds": 1.0, "by_stage": {}, "this_run": 1, "max_forwards": None},
        command="surgery audit A B",
        corpus={"prompts": count, "with_image": count, "ordinary_from": "testbed", "controls": CONTROLS},
    )
    evidence = found.evidence()
    found.verdicts = decide(
        evidence, found.threshold, settings.tolerance, settings.alpha, settings.correction
    )
    found.checkpoint = decide_checkpoint(found.verdicts, evidence, settings.alpha)
    return found


def pictures_of(key):
    """Pictures of any unit: the target of prompt N is `picture(N)`, everything else is a stranger's."""
    number = int(key.rpartition("-")[2])
    strangers = torch.stack([picture(1000 + number), picture(2000 + number)])
    if key.startswith("replication"):
        return {"target": picture(number)[None], "before": picture(number)[None], "after": strangers}
    return {"before": strangers, "after": strangers, "attacked": strangers}


STRONG = AuditSettings(attack=("embedding", "output"), similarity="edges", curve=(0, 50, 200), canaries=5)
