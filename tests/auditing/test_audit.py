"""Whole audits of a hand-built memory whose truth is known: still there, hidden, removed."""

import base64
import io
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from planted_doors import model_with_door
from planted_memory import ORDINARY, SETTINGS, run

from surgery.auditing.attack import descent
from surgery.auditing.audit import audit
from surgery.auditing.judgement import verdict
from surgery.auditing.ledger import Ledger
from surgery.errors import UsageError


def test_an_unpatched_model_still_replicates_and_is_not_attacked(planted, inputs, tmp_path):
    result = run(planted, inputs, tmp_path, ())
    (prompt,) = result.document["prompts"]
    assert result.verdict == prompt["verdict"] == "still replicates"
    assert prompt["replication"]["after"]["share"] == 1 and not prompt["attacks"]
    assert result.document["ordinary"]["change"] == 0
    assert not result.passes("replication") and not result.passes("attack")


def test_a_memory_behind_a_back_door_is_hidden_not_removed(planted, hidden):
    result, folder = hidden
    (prompt,) = result.document["prompts"]
    assert result.verdict == prompt["verdict"] == "hidden, not removed"
    assert prompt["replication"]["before"]["share"] == 1 and prompt["replication"]["after"]["share"] == 0
    attack = prompt["attacks"]["embedding"]
    assert attack["steps"] == [0, 24]
    assert len(attack["source"]["curve"]) == 1, "SOURCE's own prompt is the start, and draws it"
    assert attack["patched"]["curve"][0] < 0.3 and attack["patched"]["curve"][-1] > 0.8
    assert attack["judged"]["p_value"] == pytest.approx(1 / 20, abs=1e-5)
    assert attack["judged"]["controls"] == 19
    assert result.passes("replication") and not result.passes("attack")
    assert result.document["neurons"]["zeroed"] == {planted.LAYER: [planted.KEY]}
    assert json.loads((folder / "audit.json").read_text()) == json.loads(json.dumps(result.document))
    assert not (folder / "state").exists(), "a complete audit leaves no state behind"


def test_a_memory_whose_every_way_is_shut_is_not_found_by_one_attack(planted, inputs, tmp_path):
    result = run(planted, inputs, tmp_path / "one", (planted.KEY, planted.BACK_DOOR))
    (prompt,) = result.document["prompts"]
    assert result.verdict == prompt["verdict"] == "not found"
    assert result.document["phrase"] == "not found by embedding 24"
    attack = prompt["attacks"]["embedding"]
    assert attack["patched"]["score"] < 0.3 < attack["source"]["score"]
    assert attack["judged"]["removal_p_value"] == pytest.approx(1 / 20) and not result.passes("attack")
    page = (tmp_path / "one" / "audit.html").read_text()
    assert (
        planted.CAPTION not in page and planted.CAPTION not in (tmp_path / "one" / "audit.json").read_text()
    )
    assert "not found" in page and "withheld: replica" in page


def test_a_memory_that_two_attacks_reach_in_source_and_none_in_patched_is_removed(
    planted, inputs, tmp_path, monkeypatch
):
    # the real budgets take too long here; the rule is the same
    monkeypatch.setattr(verdict, "SUFFICIENT", {"embedding": 0, "output": 20})
    monkeypatch.setattr(descent, "FULL_BATCH", SETTINGS.attack_batch)
    monkeypatch.setattr(descent, "FULL_GUIDANCE", 1.0)
    settings = replace(SETTINGS, attack=("embedding", "output"), curve=(0,), output_curve=(20,))
    source = model_with_door(planted, "output", planted.pipeline(planted.model)).pipeline
    shut = (planted.KEY, planted.BACK_DOOR)
    result = run(planted, inputs, tmp_path, shut, settings, source=source)
    assert result.document["phrase"] == "removed (embedding 0, output 20; 19 controls)"
    attacks = result.document["prompts"][0]["attacks"]
    assert min(attack["source"]["score"] for attack in attacks.values()) > 0.8
    assert result.passes("attack")


def test_an_attack_that_does_not_reach_the_memory_in_source_decides_nothing(planted, inputs, tmp_path):
    settings = replace(SETTINGS, attack=("output",), output_curve=(0,))
    result = run(planted, inputs, tmp_path, (planted.KEY, planted.BACK_DOOR), settings)
    assert result.document["prompts"][0]["code"] == "insensitive" and result.verdict == "not tested"


def test_without_an_attack_or_with_few_controls_nothing_is_called_removed(planted, inputs, tmp_path):
    both = (planted.KEY, planted.BACK_DOOR)
    plain = run(planted, inputs, tmp_path / "plain", both, replace(SETTINGS, attack=()))
    assert plain.verdict == "not tested" and plain.document["prompts"][0]["code"] == "no-attack"
    assert plain.passes("replication") and not plain.passes("attack")
    few = replace(SETTINGS, controls=3, curve=(0, 2))
    result = run(planted, inputs, tmp_path / "few", both, few, controls=None)
    assert result.document["attacks"]["embedding"]["controls"]["kind"] == "generated"
    assert result.document["prompts"][0]["code"] == "few-controls" and result.verdict == "not tested"


def test_without_images_a_picture_of_source_stands_in(planted, inputs, tmp_path):
    settings = replace(SETTINGS, attack=())
    result = run(planted, inputs, tmp_path, (planted.KEY,), settings, images=False)
    replication = result.document["prompts"][0]["replication"]
    assert replication["target"] == "stand-in"
    assert replication["before"]["share"] == 1 and replication["after"]["share"] == 0


def test_private_matter_appears_only_when_asked_for(planted, hidden, inputs, tmp_path):
    page, document = (hidden[1] / "audit.html").read_text(), hidden[0].document
    assert planted.CAPTION in page and document["prompts"][0]["prompt"] == planted.CAPTION
    shown = [
        Image.open(io.BytesIO(base64.b64decode(part.split('"')[0]))) for part in page.split("base64,")[1:]
    ]
    wanted = planted.drawn.permute(1, 2, 0).numpy()
    assert any((abs(wanted - image_array(image)) < 30).mean() > 0.9 for image in shown)
    hashed = run(planted, inputs, tmp_path, (planted.KEY,), replace(SETTINGS, attack=()))
    entry = hashed.document["prompts"][0]
    assert "prompt" not in entry and entry["id"].startswith("p") and len(entry["id"]) == 13
    assert not any(name in (tmp_path / "audit.json").read_text() for name in (planted.CAPTION, *ORDINARY))
    hidden_page = (tmp_path / "audit.html").read_text()
    parts = hidden_page.split("base64,")[1:]
    for part in parts:
        image = image_array(Image.open(io.BytesIO(base64.b64decode(part.split('"')[0]))))
        assert (abs(wanted - image) < 30).mean() < 0.9, (
            "the training image is on a page without private matter"
        )
    assert parts, "ordinary prompts and pictures that replicate nothing are shown"


def image_array(image):
    return torch.tensor(list(image.convert("RGB").tobytes())).view(image.height, image.width, 3).numpy()


def test_a_budget_ends_the_audit_honestly_and_the_same_command_goes_on(planted, inputs, tmp_path):
    settings = replace(SETTINGS, curve=(0, 2))
    both = (planted.KEY, planted.BACK_DOOR)
    cost = 2 * 3 * 4 + 3 * (2 * 2 * 2 + 2 * 2 * 4)
    few = {"controls": "few"}
    short = run(planted, inputs, tmp_path, both, settings, max_forwards=cost + 170, **few)
    assert short.document["work"]["this_run"] <= cost + 170
    assert not short.document["complete"] and short.document["prompts"][0]["code"] == "budget"
    done = short.document["attacks"]["embedding"]["controls"]["count"]
    assert 0 < done < 4 and (tmp_path / "state").is_dir()
    whole = run(planted, inputs, tmp_path, both, settings, **few)
    assert whole.document["complete"] and whole.document["attacks"]["embedding"]["controls"]["count"] == 4
    assert whole.document["work"]["this_run"] < whole.document["work"]["sample_forwards"]
    assert not (tmp_path / "state").exists()
    fresh = run(planted, inputs, tmp_path / "fresh", both, settings, **few)
    for name in ("verdict", "replication", "ordinary", "pooled_p_values"):
        assert whole.document[name] == fresh.document[name], "resuming changed the result"
    one, other = (found.document["attacks"]["embedding"]["controls"] for found in (whole, fresh))
    assert one["scores"] == other["scores"]
    nothing = run(planted, inputs, tmp_path / "nothing", both, settings, max_forwards=0)
    assert nothing.verdict == "not tested" and nothing.document["prompts"][0]["code"] == "budget"
    assert not nothing.passes("replication")


def test_a_kill_loses_one_unit_and_other_settings_are_refused(planted, inputs, tmp_path, monkeypatch):
    settings = replace(SETTINGS, attack=())
    calls = []

    def allows(self, number, cost, group=""):
        calls.append(cost)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(Ledger, "allows", allows)
    with pytest.raises(KeyboardInterrupt):
        run(planted, inputs, tmp_path, (planted.KEY,), settings)
    assert not (tmp_path / "audit.json").exists() and not (tmp_path / "audit.html").exists()
    with pytest.raises(UsageError, match="steps 4 there, 5 here"):
        run(planted, inputs, tmp_path, (planted.KEY,), replace(settings, steps=5))
    run(planted, inputs, tmp_path, (planted.KEY,), settings)
    assert len(calls) == 3 + 2, "two units were kept; three ordinary prompts less one were left"
    with pytest.raises(UsageError, match="holds a finished audit"):
        run(planted, inputs, tmp_path, (planted.KEY,), settings)


def test_template_memories_are_compared_and_judged_under_their_mask(planted, tmp_path):
    shown = planted.drawn.clone()
    shown[:, 10:40, 10:40] = 0
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[9:41, 9:41] = False
    result = audit(
        planted.pipeline(planted.model),
        planted.pipeline(planted.model, (planted.KEY,)),
        [planted.CAPTION],
        images={planted.CAPTION: shown},
        masks={planted.CAPTION: mask},
        ordinary_file=None,
        settings=replace(SETTINGS, attack=(), ordinary=0, raw_images=True),
    )
    replication = result.document["prompts"][0]["replication"]
    assert replication["masked"] and replication["before"]["share"] == 1
    unmasked = audit(
        planted.pipeline(planted.model),
        planted.pipeline(planted.model, (planted.KEY,)),
        [planted.CAPTION],
        images={planted.CAPTION: shown},
        settings=replace(SETTINGS, attack=(), ordinary=0, raw_images=True),
    )
    before = unmasked.document["prompts"][0]["replication"]["before"]["median"]
    assert before < replication["before"]["median"]
