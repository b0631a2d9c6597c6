"""A corpus and settings so small that every command runs in seconds."""

import planted_model

from surgery.auditing.settings import AuditSettings
from surgery.hardening.settings import HardenSettings
from surgery.localization.settings import LocalizeSettings

CAPTIONS = planted_model.ordinary_captions(12)
CORPUS = [planted_model.caption("v"), planted_model.caption("w"), CAPTIONS[0]]
SEARCH = LocalizeSettings(seeds=3, confirm_seeds=2, seed=1)
AUDIT = AuditSettings(
    seeds=3, steps=2, guidance=1.0, ordinary=1, ordinary_seeds=2, timesteps=1, attack=("embedding",),
    curve=(0, 1), restarts=1, selection_seeds=1, attack_guidance=(1.0,), attack_batch=1, alpha=0.4,
    controls=2, more_seeds=0, similarity="edges",
)  # fmt: skip
HARDEN = HardenSettings(
    rounds=1, first_gate=1, embedding_steps=1, output_steps=1, attack_batch=1, further_steps=1, batch=1,
    blinding_states=2, surrogates=1,
    ordinary=1, neighbors=1, drawing_steps=1, gate_embedding=1, gate_output=1, gate_controls=1, gate_seeds=1,
    gate_guidance=(1.0,), rungs=("zeroed", "hardened"), max_change=1e-9,
)  # fmt: skip
