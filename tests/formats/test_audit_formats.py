"""What `audit` writes is described, and what is described is written."""

import copy
import json
from dataclasses import replace

import made_up_findings
import planted_model
import torch
from described import held_against
from smallest import AUDIT, CAPTIONS, CORPUS

import surgery
from surgery import formats
from surgery.auditing.report.document import audit_document


def test_the_audit_and_its_state_are_described(model, tmp_path):
    pipeline, edited = model.pipeline, copy.copy(model.pipeline)
    edited.unet = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        for layer, row in planted_model.PLANTED["v"]:
            edited.unet.get_submodule(layer).weight[row] = 0
    edited.save_pretrained(tmp_path / "edited")
    ordinary = tmp_path / "ordinary.txt"
    ordinary.write_text("\n".join(CAPTIONS[6:]))

    def audit(output, **options):
        return surgery.audit(
            model.source, tmp_path / "edited", [CORPUS[0], CORPUS[2]],
            ordinary_file=ordinary, output=tmp_path / output, settings=AUDIT, device="cpu", **options,
        )  # fmt: skip

    audit("whole", include_private=True)
    audit("stopped", max_forwards=0)
    documents = [json.loads((tmp_path / name / "audit.json").read_text()) for name in ("whole", "stopped")]
    settings = replace(AUDIT, attack=("embedding", "relearn", "graft"), canaries=3)
    attacks = {"embedding": [0.02, 0.9], "relearn": [0.02, 0.9], "graft": [0.8, 0.8]}
    documents.append(
        audit_document(made_up_findings.findings(attacks, settings, twin=True), include_private=False)
    )
    held_against(formats.AUDIT, *documents).assert_complete()
    header = json.loads((tmp_path / "stopped" / "state" / "header.json").read_text())
    held_against(formats.AUDIT_STATE, header).assert_complete()
