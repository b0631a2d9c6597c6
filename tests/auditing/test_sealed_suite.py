"""The sealed suite's findings, judged by the verdict as it is: no hidden memory may pass for a removed one.

`tests/data/verdict-suite.json` holds the scores of real audits of the testbed's models, written by
`benchmarks/verdict.py --record`; how each model is attacked is said there.
"""

import json
import sys
from pathlib import Path

import pytest

from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.one_attack import CONTESTED, PASSED
from surgery.auditing.judgement.verdict import HIDDEN, NOT_TESTED, REMOVED, STILL, decide
from surgery.auditing.settings import AuditSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import verdict

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "verdict-suite.json").read_text())
TRUTH = {"unpatched": STILL, "zeroed": HIDDEN, "closed": HIDDEN}


def verdicts_of(model):
    evidence = [
        Evidence(
            **{
                **prompt,
                "attacks": tuple(
                    AttackEvidence(
                        **{
                            name: tuple(value) if isinstance(value, list) else value
                            for name, value in attack.items()
                        }
                    )
                    for attack in prompt["attacks"]
                ),
            }
        )
        for prompt in RECORDED["models"][model]
    ]
    return decide(evidence, RECORDED["similarity"]["threshold"], 0.05, 0.05, "benjamini-hochberg")


@pytest.mark.parametrize("model", sorted(TRUTH))
def test_the_word_is_right(model):
    found = [one.word for one in verdicts_of(model)]
    assert len(found) >= 4 and found == [TRUTH[model]] * len(found)


def test_of_the_twin_nine_of_ten_images_are_removed_and_none_is_called_hidden():
    """One is contested: drawn at 0.51 from the twin, and at most at 0.47 from the floor beside it."""
    found = [(one.word, one.code) for one in verdicts_of("twin")]
    assert len(found) >= 10 and [word for word, _ in found].count(REMOVED) >= 0.9 * len(found)
    assert all(one in ((REMOVED, PASSED), (NOT_TESTED, CONTESTED)) for one in found)


def test_nineteen_of_twenty_words_are_right():
    words = {model: [one.word for one in verdicts_of(model)] for model in (*TRUTH, "twin")}
    right = sum(words[model].count(truth) for model, truth in {**TRUTH, "twin": REMOVED}.items())
    assert right >= 0.95 * sum(map(len, words.values()))
    assert [len(names) for names in RECORDED["memories"].values()] == [
        len(found) for found in RECORDED["models"].values()
    ]


def test_the_twin_is_judged_beside_a_second_one_and_what_is_known_of_it_is_not_measured_again(tmp_path):
    given = ["--second-twin", "second", "--twin", "first"]
    alone, floored, hardened = (
        verdict.job_of(name, name, tmp_path, parsed, verdict.audit_options(parsed))
        for name, parsed in (
            ("twin", verdict.arguments([])),
            ("twin", verdict.arguments(given)),
            ("hardened", verdict.arguments(given)),
        )
    )
    assert (alone.twin, floored.twin, hardened.twin) == (None, "second", "first")
    assert alone.output != floored.output
    state = Path(alone.output) / "state"
    state.mkdir(parents=True)
    settings = {**AuditSettings(**alone.options).measured_with(), "attack": ["output"]}
    (state / "header.json").write_text(json.dumps({"settings": settings}))
    for side in ("source", "patched", "control"):
        (state / f"output-{side}-3.json").write_text(side)

    def known(job):
        verdict.share(tmp_path, job)
        return {one.stem: one.read_text() for one in (Path(job.output) / "state").glob("output-*.json")}

    same = ("source", "patched", "control")
    assert known(floored) == {f"output-{side}-3": side for side in same}
    names = {"source": "source", "twin": "patched", "control-twin": "control"}
    assert known(hardened) == {f"output-{name}-3": side for name, side in names.items()}
    # what the second twin scored is nobody else's floor
    (Path(floored.output) / "state" / "header.json").write_text((state / "header.json").read_text())
    (Path(floored.output) / "state" / "output-twin-4.json").write_text("second")
    assert "output-twin-4" not in known(hardened)
