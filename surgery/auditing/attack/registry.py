"""Every attack by its name: the one line that a new attack adds outside its own module."""

from __future__ import annotations

from surgery.auditing.attack.embedding import EmbeddingAttack
from surgery.auditing.attack.protocol import Attack

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (EmbeddingAttack,)}
DEFAULT = EmbeddingAttack.name
