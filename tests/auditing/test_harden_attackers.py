"""The attackers' benchmark: one teaching serves several images, a kill loses one, ratios are bounded."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from planted_memory import SETTINGS, random_picture

from surgery.auditing.attack.protocol import Sibling, Target
from surgery.auditing.attack.revive import ReviveAttack
from surgery.auditing.drawing import Drawing
from surgery.auditing.units import AttackUnit
from surgery.errors import SurgeryError, UsageError
from surgery.measures.similarity import named_similarity

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import harden_attackers
from harden_attackers_table import above_floor, print_tables, steps_ratios, steps_until

EDGES = named_similarity("edges")
SIBLINGS = {
    "one": (Sibling("white cross", random_picture(2)),),
    "other": (Sibling("a green ring", random_picture(3)),),
}


def target(number, siblings):
    picture = random_picture(number)
    return Target(picture, picture, (None,), "a red circle", number, ("blue ring",), siblings=siblings)


TARGETS = {
    "first": target(4, SIBLINGS["one"]),
    "second": target(5, SIBLINGS["other"]),
    "third": target(6, SIBLINGS["one"]),
}
REVIVE = replace(
    ReviveAttack.from_settings(SETTINGS),
    curve=(2,),
    selection_seeds=(1,),
    scored_seeds=(2,),
    drawings=(Drawing(2, 1.0, 8),),
    embedding_steps=1,
)


def test_one_teaching_serves_all_that_share_their_siblings(tiny_model, monkeypatch):
    taught = []
    real = ReviveAttack.taught

    def counted(self, model, first):
        taught.append(first)
        return real(self, model, first)

    monkeypatch.setattr(ReviveAttack, "taught", counted)
    found = dict(harden_attackers.attacked(REVIVE, tiny_model, TARGETS, list(TARGETS), EDGES))
    assert found.keys() == TARGETS.keys()
    assert [id(one) for one in taught] == [id(TARGETS["first"]), id(TARGETS["second"])]
    # as the audit does it, where the image that teaches is the one that is asked for
    assert found["first"] == REVIVE.run(tiny_model, TARGETS["first"], EDGES)[0]
    # whichever are wanted, the same is taught
    alone = dict(harden_attackers.attacked(REVIVE, tiny_model, TARGETS, ["third"], EDGES))
    assert alone == {"third": found["third"]} and found["third"] != found["first"]


class Broken:
    """Attacks that end with an error at one image."""

    def __init__(self, at):
        self.at, self.made = at, []

    def run(self, model, asked, similarity):
        name = next(name for name, one in TARGETS.items() if one is asked)
        if name == self.at:
            raise SurgeryError(name, "is where this ends")
        self.made.append(name)
        return unit([0.5 + asked.seed / 100]), {}


def unit(scores, steps=None):
    """A unit of an attack that learns, one scored picture at each point."""
    return AttackUnit(
        steps=tuple(steps or range(len(scores))),
        variants=("a",),
        selection=(tuple(((one,),) for one in scores),),
        chosen=((0, 0),),
        scored=(tuple((one,) for one in scores),),
        highest=(max(scores),),
    )


def test_what_was_measured_before_the_end_is_not_measured_again(
    tiny_model, other_model, tmp_path, monkeypatch
):
    models = [tiny_model]
    attacks = [Broken("second")]
    monkeypatch.setattr(harden_attackers, "load_model", lambda *given: (models[-1], None))
    monkeypatch.setattr(harden_attackers, "targets_of", lambda testbed: TARGETS)
    monkeypatch.setattr(harden_attackers, "attack_named", lambda name: attacks[-1])
    file = tmp_path / "record.json"

    def measure():
        record = harden_attackers.Record(file)
        harden_attackers.measure(record, None, "twin", "", list(TARGETS), ["latent"])

    with pytest.raises(SurgeryError, match="where this ends"):
        measure()
    assert list(harden_attackers.Record(file).units("twin")["latent"]) == ["first"]
    attacks.append(Broken(None))
    measure()
    assert attacks[-1].made == ["second", "third"]
    found = harden_attackers.Record(file).units("twin")["latent"]
    assert {name: one.score() for name, one in found.items()} == {
        name: pytest.approx(0.5 + one.seed / 100) for name, one in TARGETS.items()
    }
    models.append(other_model)
    other_model.denoiser.conv_out.bias.data += 1
    with pytest.raises(UsageError, match="another model `twin`"):
        measure()
    monkeypatch.setattr(harden_attackers, "SETTINGS", replace(harden_attackers.SETTINGS, steps=11))
    with pytest.raises(UsageError, match="other settings"):
        harden_attackers.Record(file)


def test_ratios_of_steps_are_bounded_where_one_of_the_two_never_replicates(capsys):
    steps = (5, 10, 20)
    soon, late, never = (unit(one, steps) for one in ([0.6, 0.6, 0.6], [0.1, 0.2, 0.6], [0.1, 0.2, 0.3]))
    assert [steps_until(one, 0.5) for one in (soon, late, never)] == [5, pytest.approx(17.5), None]
    floor = {"a": late, "b": soon, "c": never, "d": never, "only the twin": soon}
    ratios = steps_ratios({"a": soon, "b": never, "c": late, "d": never}, floor, 0.5)
    expected = [(5 / 17.5, 5 / 17.5), (4.0, math.inf), (0.0, 17.5 / 20), (0.0, math.inf)]
    assert ratios == [pytest.approx(one) for one in expected]
    assert above_floor({"a": soon, "b": never}, floor) == ["a"]
    models = {"hardened": {"relearn": {"a": soon, "b": never}}, "twin": {"relearn": floor}}
    print_tables(models, ["a", "b"], ["relearn"], "edges")
    printed = capsys.readouterr().out
    assert "relearn: 1 of 2 above the twin by 0.1 a\n" in printed
    assert "median of 2: 2.14 to inf" in printed and ">20 (5)" in printed and "5 (18)" in printed
