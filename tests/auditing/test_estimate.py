"""What an audit would cost and could say at most, before it starts."""

from dataclasses import replace

import pytest
from planted_memory import SETTINGS, run

from surgery.auditing.attack.registry import ATTACKS
from surgery.auditing.estimate import estimate, estimate_inputs
from surgery.auditing.inputs import AuditInputs
from surgery.auditing.settings import AuditSettings
from surgery.errors import UsageError

STRONG = AuditSettings(attack=("embedding", "output"), curve=(0, 50, 200), canaries=10)


def test_the_word_that_could_come_out_is_the_verdicts_own():
    assert estimate(AuditSettings(), 17).at_most.word == "not tested"
    strong = estimate(STRONG, 17)
    assert strong.at_most.phrase == "removed (embedding 200, output 50; 24 controls, 10 canaries)"
    assert strong.why == "" and estimate(STRONG, 100).at_most.word == "removed", "100 prompts can pass"
    short = estimate(replace(STRONG, attack=("embedding",), curve=(0, 50), canaries=0), 17)
    assert short.at_most.phrase == "not found by embedding 50" and short.why
    few = estimate(replace(STRONG, controls=5), 17)
    assert few.at_most.word == "not tested" and few.controls_needed == 19 > few.controls
    assert estimate(STRONG, 17, controls=24, twin=True).at_most.phrase.endswith("twin)")


@pytest.mark.parametrize(
    ("weaker", "why"),
    [
        ({"attack_batch": 1}, "1 noised copies per step"),
        ({"learning_rate": 1e-9}, "a learning rate of 1e-09"),
        ({"attack_guidance": (1.0,), "guidance": 1.0}, "no pictures at guidance 3"),
    ],
)
def test_no_setting_buys_the_word_for_an_attack_that_cannot_see(weaker, why):
    found = estimate(replace(STRONG, **weaker), 17)
    assert found.at_most.word == "not found" and why in found.why


def test_grafts_have_a_say_only_with_a_base_model():
    settings = replace(STRONG, attack=("embedding", "output", "graft"))
    assert "graft" not in estimate(settings, 3).at_most.phrase
    assert "graft 1" in estimate(settings, 3, base=True).at_most.phrase


def test_a_twin_and_canaries_cost_attacks():
    def images(**more):
        stages = {stage.name: stage for stage in estimate(replace(STRONG, **more), 17, twin=twin).stages}
        return stages["attack: embedding"].images

    twin = False
    assert images(canaries=0) == 2 * 17 + 24 and images() == 2 * 17 + 24 + 2 * 10
    twin = True
    assert images(canaries=0) == 3 * 17 + 2 * 24


def test_every_attack_says_what_it_costs():
    found = estimate(replace(STRONG, attack=tuple(ATTACKS)), 2)
    assert {f"attack: {name}" for name in ATTACKS} <= {stage.name for stage in found.stages}
    assert all(stage.sample_forwards > 0 for stage in found.stages)
    assert found.sample_forwards == sum(stage.sample_forwards for stage in found.stages)
    assert found.as_json()["sample_forwards"] == found.sample_forwards


def test_a_real_audit_takes_no_more(planted, inputs, tmp_path):
    settings = replace(
        SETTINGS, similarity="edges", attack_guidance=(1.0,), curve=(0, 1), controls=2, more_seeds=2
    )
    both = (planted.KEY, planted.BACK_DOOR)
    work = run(planted, inputs, tmp_path, both, settings, controls=None).document["work"]
    stages = {stage.name: stage.sample_forwards for stage in estimate(settings, 1).stages}
    assert work["by_stage"]["replication"]["sample_forwards"] == stages["replication"]
    assert work["by_stage"]["ordinary"]["sample_forwards"] == stages["ordinary"]
    spent = work["by_stage"]["attack: embedding"]["sample_forwards"]
    assert stages["attack: embedding"] / 2 < spent <= stages["attack: embedding"]


def test_the_inputs_are_read_and_checked_without_a_model(inputs):
    asked = AuditInputs("no model", "none", inputs / "prompts.txt", images=inputs / "images", settings=STRONG)
    found = estimate_inputs(replace(asked, control_images=inputs / "controls"))
    assert (found.prompts, found.with_image, found.controls) == (1, 1, 19)
    assert "make controls" not in {stage.name for stage in found.stages}
    with pytest.raises(UsageError, match="no such folder"):
        estimate_inputs(replace(asked, control_images=inputs / "absent"))
