"""surgery: find memorized training images in a diffusion model, cut them out of the checkpoint, prove it.

The public API is loaded lazily (PEP 562), so that `import surgery` costs nothing and the functions that only
handle bytes (`patch`, `diff`) never import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

# public name -> the module that defines it
_EXPORTS = {
    "NeuronSet": "surgery.neurons",
    "read_neurons": "surgery.neurons",
    "SurgeryError": "surgery.errors",
    "UsageError": "surgery.errors",
    "GateError": "surgery.errors",
    "apply_recipe": "surgery.applying.apply",
    "plan_recipe": "surgery.applying.forecast",
    "read_recipe": "surgery.applying.recipe",
    "localize": "surgery.localization.localize",
    "plan": "surgery.localization.joint.plan",
    "scan": "surgery.localization.scan",
    "calibrate": "surgery.localization.calibration",
    "LocalizeSettings": "surgery.localization.settings",
    "ablate": "surgery.model.ablation",
    "load_pipeline": "surgery.model.pipeline",
    "harden": "surgery.hardening.harden",
    "HardenSettings": "surgery.hardening.settings",
    "inspect_checkpoint": "surgery.checkpoint.inspect",
    "patch": "surgery.checkpoint.patch",
    "diff": "surgery.checkpoint.diff",
    "record_audit": "surgery.publish.stage",
    "write_card": "surgery.publish.card",
    "verify": "surgery.publish.verify",
    "upload": "surgery.publish.upload",
    "audit": "surgery.auditing.audit",
    "AuditSettings": "surgery.auditing.settings",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'surgery' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
