"""The model card: the source's kept, its metadata merged, and what was measured and what was not."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import audit_of, manifest_of
from huggingface_hub import ModelCard

import surgery
from surgery.errors import UsageError
from surgery.publish.card_text import BEGIN, END
from surgery.testbed.load import PLANTED_FOLDER

SOURCE_CARD = """---
license: openrail++
license_link: https://example.org/license
tags:
- stable-diffusion
- text-to-image
extra_gated_prompt: Agree to the license
inference:
  parameters:
    guidance: 7.5
widget:
- text: an astronaut
pipeline_tag: text-to-image
language: [en, de]
2nd-key: kept
model-index:
- name: theirs
  results: []
  odd: kept
---
# Their model

Words --- of theirs, with `code` and a table.
---
More.
"""


@pytest.fixture
def audited(bare):
    surgery.record_audit(bare, audit_of(bare, "hidden, not removed"))
    return bare


@pytest.fixture
def card_file(tmp_path):
    path = tmp_path / "card.md"
    path.write_text(SOURCE_CARD)
    return path


def load(out):
    return ModelCard.load(out / "README.md", ignore_metadata_errors=True)


def test_the_card_parses_and_keeps_what_it_does_not_know(audited, card_file):
    surgery.write_card(audited, card=card_file, base_model="lab/source")
    import yaml

    wanted = yaml.safe_load(SOURCE_CARD.split("---\n")[1])
    written = yaml.safe_load((audited / "README.md").read_text().split("---\n")[1])
    added = {"base_model": "lab/source", "base_model_relation": "finetune", "library_name": "diffusers"}
    assert written == {**wanted, **added, "tags": [*wanted["tags"], "surgery", "memorization"]}
    data = load(audited).data
    assert data.license == "openrail++" and data.base_model == "lab/source"
    assert data.extra_gated_prompt == "Agree to the license" and data["2nd-key"] == "kept"
    body = SOURCE_CARD.split("---\n", 2)[2].strip()
    assert load(audited).text.strip().endswith(body)


def test_a_license_is_carried_over_and_never_invented(audited, tmp_path):
    bare_card = tmp_path / "none.md"
    bare_card.write_text("# Nothing said\n")
    surgery.write_card(audited, card=bare_card)
    assert load(audited).data.license is None
    assert "license" not in (audited / "README.md").read_text().split("---")[1]
    surgery.write_card(audited, source=PLANTED_FOLDER)
    assert load(audited).data.license == "apache-2.0"
    surgery.write_card(audited, card=bare_card, fields={"license": "mit", "thumbnail": "x.png"})
    assert load(audited).data.license == "mit" and load(audited).data.thumbnail == "x.png"


def parent(out):
    data = load(out).data
    return data.base_model, data.base_model_relation


def test_the_base_model_is_the_source_on_the_hub_or_what_the_card_said(audited, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("---\nbase_model: their/parent\nbase_model_relation: merge\n---\n")
    surgery.write_card(audited, card=card)
    assert parent(audited) == ("their/parent", "merge")
    manifest = manifest_of(audited)
    manifest["source"] |= {"name": "lab/source", "revision": "a" * 40}
    (audited / "surgery-manifest.json").write_text(json.dumps(manifest))
    surgery.write_card(audited, card=card)
    assert parent(audited) == ("lab/source", "finetune")
    with pytest.raises(UsageError, match="no Hub id"):
        surgery.write_card(audited, base_model="/a/path/on/a/disk")


def test_the_section_says_the_verdict_verbatim_and_what_was_not_measured(audited):
    text = surgery.write_card(audited, source=PLANTED_FOLDER).read_text()
    section = text[text.index(BEGIN) : text.index(END)]
    for words in (
        "**hidden, not removed (embedding 200, output 50)**",
        "16 of 17 images come back under the attack",
        "replicating after attack: 1",
        "`hidden, not removed`: 2 prompts",
        "an attacker still gets it out of the weights",
        "A LoRA",
        "retrieval of other images",
        "surgery verify FOLDER --source SOURCE",
        "Not cleared for publishing",
        "Output rows of cross-attention value layers that are zero: 2",
    ):
        assert words in section, words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attacks": None}, "no attack was made"),
        ({"complete": False}, "stopped before its end"),
        ({"models": {}}, "does not name them"),
        ({"counts": {"not tested": 3}}, "3 prompts of the corpus: the verdict is `not tested`"),
    ],
    ids=str,
)
def test_what_an_audit_lacks_is_said(bare, changes, words):
    surgery.record_audit(bare, audit_of(bare, "not found", **changes))
    assert words in surgery.write_card(bare).read_text()


def test_without_an_audit_the_card_says_so(bare):
    surgery.record_audit(bare, None)
    text = surgery.write_card(bare).read_text()
    assert "no audit of these weights is recorded" in text and "no audit was made" in text


def test_an_accepted_risk_stands_in_the_card_and_cannot_break_it(audited):
    reason = "agreed ``` <script>alert(1)</script>\n---\n# heading " + END
    surgery.write_card(audited, source=PLANTED_FOLDER, accept_risk=reason)
    text = (audited / "README.md").read_text()
    line = next(line for line in text.splitlines() if "accepts that risk" in line)
    assert "````agreed ``` <script>" in line and line.endswith("````")
    assert "Published although the gate is shut" in text
    surgery.write_card(audited, source=PLANTED_FOLDER)
    assert surgery.verify(audited).ok


def test_the_section_takes_the_place_of_an_earlier_one(audited):
    first = surgery.write_card(audited, source=PLANTED_FOLDER).read_text()
    assert surgery.write_card(audited).read_text() == first
    surgery.record_audit(audited, audit_of(audited, "removed"))
    again = surgery.write_card(audited).read_text()
    assert again.count(BEGIN) == 1 and "hidden" not in again
    assert again.split(END)[1] == first.split(END)[1]


def test_a_card_that_patch_kept_is_taken_and_the_proof_still_holds(tmp_path, memories):
    out = tmp_path / "out"
    surgery.patch(PLANTED_FOLDER, memories[0].neurons, out, keep=["README.md"])
    surgery.record_audit(out, audit_of(out))
    surgery.write_card(out)
    assert "The testbed of `surgery`" in (out / "README.md").read_text()
    found = surgery.verify(out, source=PLANTED_FOLDER)
    assert found.ok, found.violations


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("---\nlicense: [unclosed\n---\n", "no YAML"),
        ("---\n- a list\n---\n", "no YAML object"),
        ("---\n1: a number\n---\n", "no YAML object"),
        (b"\xff\xfe\x00 no text", "no UTF-8"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused(audited, tmp_path, text, words):
    path = tmp_path / "card.md"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words):
        surgery.write_card(audited, card=path)


def test_a_card_needs_a_recorded_audit(bare):
    with pytest.raises(UsageError, match="nothing was recorded"):
        surgery.write_card(bare)


def test_the_command_records_and_writes(bare, tmp_path, surgery_run):
    audit = tmp_path / "audit.json"
    audit.write_text(json.dumps(audit_of(bare, "not found")))
    status, shown, _ = surgery_run("card", bare, "--audit", audit, "--source", PLANTED_FOLDER)
    assert status == 0 and "gate for publishing: shut" in shown
    assert surgery.verify(bare, audit=audit).ok
    shutil.copy(audit, bare / "audit.json")
    status, _, complaint = surgery_run("card", bare, "--audit", audit)
    assert status == 3 and "audit.json is none of the files that patch wrote" in complaint
