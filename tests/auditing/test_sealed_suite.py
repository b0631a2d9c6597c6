"""The sealed suite's findings, judged by the verdict as it is: no hidden memory may pass for a removed one.

`tests/data/verdict-suite.json` holds the scores of real audits of the testbed's models, written by
`benchmarks/verdict.py --record`; how each model is attacked is said there.
"""

import json
from pathlib import Path

import pytest

from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.verdict import HIDDEN, REMOVED, STILL, decide

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "verdict-suite.json").read_text())
TRUTH = {"unpatched": STILL, "zeroed": HIDDEN, "closed": HIDDEN, "twin": REMOVED}


def verdicts(model):
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


@pytest.mark.parametrize("model", sorted(set(RECORDED["models"]) & set(TRUTH)))
def test_the_word_is_right(model):
    found = [verdict.word for verdict in verdicts(model)]
    assert len(found) >= 4 and found.count(TRUTH[model]) >= 0.9 * len(found)
    if TRUTH[model] != REMOVED:
        assert REMOVED not in found
