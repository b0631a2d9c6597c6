"""Every attack by its name: the one line that a new attack adds outside its own module.

`module:class`, so that settings and help know the names without importing torch.
"""

from __future__ import annotations

import importlib
from typing import Any

ATTACKS: dict[str, str] = {
    "embedding": "surgery.auditing.attack.embedding:EmbeddingAttack",
    "output": "surgery.auditing.attack.output:OutputAttack",
    "prompts": "surgery.auditing.attack.prompts:PromptsAttack",
    "latent": "surgery.auditing.attack.latent:LatentAttack",
    "relearn": "surgery.auditing.attack.relearn:RelearnAttack",
    "revive": "surgery.auditing.attack.revive:ReviveAttack",
    "graft": "surgery.auditing.attack.graft:GraftAttack",
}


def attack_class(name: str) -> Any:
    """The class of an attack of `ATTACKS`: a subclass of `surgery.auditing.attack.protocol.Attack`."""
    module, _, attack = ATTACKS[name].partition(":")
    return getattr(importlib.import_module(module), attack)
