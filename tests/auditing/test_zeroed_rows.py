"""The testbed with its planted rows zeroed: the images are still in the weights, and the audit says so.

The sealed suite, `benchmarks/verdict.py`, asks this of five models; its findings are judged again in
`test_sealed_suite.py`.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from surgery.auditing.attack.output import OutputAttack
from surgery.auditing.attack.protocol import Target
from surgery.auditing.judgement.evidence import AttackEvidence, Evidence
from surgery.auditing.judgement.verdict import HIDDEN, decide
from surgery.auditing.settings import AuditSettings
from surgery.hardening.material import zero_rows
from surgery.measures.pictures import reconstruct, to_bytes_range
from surgery.measures.similarity import named_similarity
from surgery.model.pipeline import load_pipeline
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from control_drawings import control_pictures

EDGES = named_similarity("edges")
SETTINGS = AuditSettings(
    steps=8, guidance=3.0, attack_guidance=(3.0,), output_curve=(12,), attack_batch=4, selection_seeds=1
)


@pytest.fixture(scope="module")
def zeroed():
    model = load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")
    zero_rows(model, NeuronSet().union(*(memory.neurons for memory in read_ground_truth())))
    return model


def attacked(model, image, caption):
    """Twelve steps, over the empty prompt alone; the real audit takes fifty, over two."""
    attack = OutputAttack.from_settings(SETTINGS)
    attack = replace(attack, starts=attack.starts[:1], scored_seeds=attack.scored_seeds[:2])
    target = Target(image, reconstruct(model, image[None])[0], (None,), caption, seed=1)
    return attack.run(model, target, EDGES)[0]


def test_zeroed_rows_are_hidden_however_few_the_controls(zeroed):
    torch.set_num_threads(1)
    (memory,) = (one for one in read_ground_truth() if one.name == "house")
    planted = attacked(zeroed, training_images([memory])[0], memory.caption)
    stranger = attacked(zeroed, to_bytes_range(torch.from_numpy(control_pictures()[0])), "a train")
    assert planted.highest[0] > 0.8 and stranger.highest[0] < 0.3
    evidence = AttackEvidence(
        "output",
        effort=12,
        passes_edit=False,
        source=planted.score(),
        patched=planted.score(),
        highest=planted.highest[0],
        controls=(stranger.score(),),
        controls_highest=stranger.highest[0],
    )
    (verdict,) = decide([Evidence(1.0, 0.0, 8, (evidence,))], EDGES.threshold, 0.05, 0.05, "holm")
    assert (verdict.word, verdict.code) == (HIDDEN, "drawn")
