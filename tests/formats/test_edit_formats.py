"""What `patch` and `harden` write is described, and what is described is written."""

import json
from dataclasses import replace
from pathlib import Path

import made_up_findings
import planted_model
import pytest
from described import held_against
from smallest import AUDIT, CORPUS, HARDEN

import surgery
from surgery import formats
from surgery.auditing.report.document import audit_document
from surgery.errors import UsageError


def test_the_manifest_is_described(model, hardened, localized, tmp_path):
    source = Path(model.source)
    (source / "unet" / "model.onnx").write_bytes(b"x")  # left out, with its reason
    (source / "sample.png").write_bytes(b"x")  # left out, only counted
    rows = dict([planted_model.PLANTED["v"][0]])
    result = surgery.patch(source, {layer: [row] for layer, row in rows.items()}, tmp_path / "out")
    manifest = json.loads(result.manifest_path.read_text())
    edited = surgery.patch(source, hardened.edit, tmp_path / "hardened")
    other = json.loads(edited.manifest_path.read_text())
    weights = next(entry for entry in manifest["files"] if entry["role"] == "denoiser weights")
    audit = {
        "format": "surgery.audit/2", "verdict": "removed", "phrase": "removed", "reason": "",
        "private": False, "counts": {"removed": 1}, "complete": True, "attacks": {"embedding": {"effort": 1}},
        "prompts": [{"id": "p0123456789ab", "verdict": "removed", "phrase": "removed"}],
        "models": {"patched": {"sha256": {Path(weights["path"]).name: weights["sha256"]}}},
    }  # fmt: skip
    audited = audit_document(made_up_findings.findings({"embedding": [0.02, 0.9]}, AUDIT), False)
    audit |= {name: audited[name] for name in ("settings", "similarity", "versions")}
    guided = {"settings": {**localized[0]["settings"], "guidance": 3.0}}
    layers = {"layers": {layer: [row] for layer, row in rows.items()}}
    (tmp_path / "neurons.json").write_text(json.dumps(localized[0] | guided | layers))
    recorded = surgery.record_audit(tmp_path / "out", audit, neurons=tmp_path / "neurons.json")
    held_against(formats.MANIFEST, manifest, other, recorded).assert_complete()


def test_edits_and_their_records_are_described(hardened, model, tmp_path):
    edit = json.loads((hardened.edit / "edit.json").read_text())
    held_against(formats.EDIT, edit).assert_complete()
    record = json.loads((hardened.edit / "hardening.json").read_text())
    assert record == json.loads(json.dumps(hardened.document))
    held_against(formats.HARDENING, record).assert_complete()
    state = tmp_path / ".edit.hardening"
    with pytest.raises(UsageError):
        # bad enough to end after the state was opened
        surgery.harden(
            model.source, CORPUS[:1], tmp_path / "edit", neurons={planted_model.PLANTED["v"][0][0]: [0]},
            settings=replace(HARDEN, rungs=("hardened",), optimizer="adamw8bit"), device="cpu",
        )  # fmt: skip
    header = json.loads((state / "header.json").read_text())
    held_against(formats.HARDENING_STATE, header).assert_complete()
