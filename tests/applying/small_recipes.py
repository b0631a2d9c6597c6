"""Parts of recipes of the testbed, with settings that take seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from surgery.measures.pictures import to_png
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

MEMORIES = read_ground_truth()
CAPTIONS = [memory.caption for memory in MEMORIES[:2]]
PICTURE = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))

SEARCH = """
[calibrate]
score_prompts = 4
[localize]
seeds = 3
confirm_seeds = 2
"""
AUDIT = """
[audit]
require = "replication"
seeds = 2
more_seeds = 0
steps = 2
guidance = 1
ordinary = 1
ordinary_seeds = 2
ordinary_pictures = 1
timesteps = 1
similarity = "edges"
"""


def write_small_recipe(folder: Path, body: str = SEARCH + AUDIT, corpus: str = "", head: str = "") -> Path:
    """A recipe with two memorized prompts, a training image of one of them, and eight ordinary prompts."""
    (folder / "prompts.txt").write_text("\n".join(CAPTIONS) + "\n")
    ordinary = (PLANTED_FOLDER / "ordinary-prompts.txt").read_text().splitlines()
    (folder / "ordinary.txt").write_text("\n".join(ordinary[:8]) + "\n")
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "1.png").write_bytes(to_png(PICTURE))
    corpus = corpus or 'prompts = "prompts.txt"\nordinary = "ordinary.txt"\nimages = "images"\n'
    path = folder / "recipe.toml"
    path.write_text(
        f'format = "surgery.recipe/2"\n{head}[model]\nsource = "{PLANTED_FOLDER.resolve()}"\n'
        f"[corpus]\n{corpus}{body}"
    )
    return path
