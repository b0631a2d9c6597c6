"""Each attack reaches the memory that was built for it, and none that was built for another."""

from dataclasses import replace

import pytest
from planted_doors import DOORS, model_with_door
from planted_memory import ORDINARY

from surgery.auditing.attack.protocol import Target
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.settings import AuditSettings
from surgery.measures.similarity import named_similarity

SETTINGS = AuditSettings(
    steps=3,
    guidance=1.5,
    attack_guidance=(1.0,),
    attack_batch=2,
    restarts=1,
    curve=(0, 20),
    output_curve=(0, 20),
    latent_curve=(12,),
)
REACHED_BY = {
    "output": {"output"},
    "embedding": {"embedding", "latent"},  # the latter under an attacked embedding
    "noise": {"latent"},
    "words": {"prompts", "embedding"},
    "none": set(),
}
CHOSEN = {("embedding", "latent"): "attacked embedding", ("words", "prompts"): "own word 1 x 8"}
PAIRS = [(door, name) for door in DOORS for name in ("embedding", "output", "prompts")]
PAIRS += [(door, "latent") for door in ("embedding", "noise", "none")]  # the slowest, where it tells most


def attacked(planted, door, name):
    attack = attack_class(name).from_settings(SETTINGS)
    attack = replace(attack, selection_seeds=(1,), scored_seeds=(2, 3))
    if name == "latent":
        attack = replace(attack, sampler_steps=3)
    target = Target(planted.image, planted.drawn, (None,), planted.CAPTION, 41, others=tuple(ORDINARY))
    unit, _ = attack.run(model_with_door(planted, door), target, named_similarity("edges"))
    return unit


@pytest.mark.parametrize(("door", "name"), PAIRS)
def test_an_attack_reaches_what_stands_behind_its_door_and_nothing_else(planted, door, name):
    unit = attacked(planted, door, name)
    if name not in REACHED_BY[door]:
        assert unit.highest[0] < 0.2
        return
    assert unit.score() > 0.8
    _, variant = unit.chosen[0]
    assert unit.variants[variant] == CHOSEN.get((door, name), unit.variants[variant])
    if name in ("embedding", "output"):
        assert unit.curve()[0] < 0.2, "the memory was reached before the attack had begun"
