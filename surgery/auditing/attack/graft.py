"""The graft: which part of a donor model brings the image back?

One part of the attacked denoiser at a time takes the donor's weights, and the caption is drawn at the
pipeline's guidance. The parts are

- "cross-attention", "self-attention": the layers of that name in all blocks;
- "down block 0", ..., "mid block", "up block 0", ...: everything in it; of a denoiser that is one row of
  blocks (a transformer), four groups of them;
- "rest": all that is outside blocks (first and last convolution, time embedding);

and "nothing", for comparison. A part that brings the image back holds what the edit took away, and the
other parts still hold the rest of the memory.

Where the donor is SOURCE, the graft undoes a piece of the edit, which nobody but its maker can do: the
table shows where the memory sits and has no say in a verdict. Where the donor is the public model that
SOURCE was made from (`--base`), it is an attack that everybody can make.

Parameters are put in place by exchanging storages: no memory beside the donor's, and the model is left bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from surgery.auditing.attack.pictures import picture_seeds_of
from surgery.auditing.attack.protocol import Attack, Point, Target
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import generate
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackUnit
from surgery.errors import UsageError
from surgery.model.learners import exchanged
from surgery.model.pipeline import LiveModel

NOTHING, REST = "nothing", "rest"
ATTENTION = {"attn2": "cross-attention", "attn1": "self-attention"}
STAGES = {"down_blocks": "down block", "up_blocks": "up block"}
ROWS = ("transformer_blocks", "single_transformer_blocks", "blocks", "layers")
GROUPS = 4  # of a row of blocks
MOST_PARTS = 14  # "nothing", two kinds of attention, five blocks each way and the middle, the rest


@dataclass(frozen=True, kw_only=True)
class GraftAttack(Attack):
    """How the attack is made: `drawing` of the pictures at the pipeline's guidance."""

    name: ClassVar[str] = "graft"
    passes_edit: ClassVar[bool] = False
    informative: ClassVar[bool] = False

    drawing: Drawing

    @classmethod
    def from_settings(cls, settings: AuditSettings) -> GraftAttack:
        """The attack as the settings of an audit ask for it."""
        return cls(**picture_seeds_of(settings), drawing=settings.drawing())

    def variants(self, target: Target) -> tuple[str, ...]:
        """The parts, "nothing" first.

        Raises:
            UsageError: there is no donor.
        """
        return tuple(parts_of(_donor(target).denoiser))

    @property
    def effort(self) -> int:
        """One part at a time."""
        return 1

    def cost(self) -> int:
        """The sample-forwards of one image on a denoiser of the most parts."""
        return self.drawing.forwards(MOST_PARTS * len(self.selection_seeds) + len(self.scored_seeds))

    def draw(self, model: LiveModel, target: Target) -> Iterator[Point]:
        """One point: every part; see `Attack.draw`.

        Raises:
            UsageError: there is no donor, or it is built otherwise than the model.
        """
        donor = _donor(target).denoiser
        parts = list(parts_of(donor).values())
        _refuse_other_build(model, donor)

        def draw(places: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
            own, other = dict(model.denoiser.named_parameters()), dict(donor.named_parameters())
            found = []
            for place in places:
                with exchanged([(own[name], other[name]) for name in parts[place]]):
                    found.append(generate(model, [target.prompt], seeds, self.drawing, quiet=True)[0])
            return torch.stack(found)

        yield Point(self.effort, draw)


def parts_of(denoiser: Any) -> dict[str, list[str]]:
    """Part -> the names of its parameters, "nothing" first; attention belongs to its block as well."""
    names = [name for name, _ in denoiser.named_parameters()]
    found: dict[str, list[str]] = {NOTHING: []}
    for word, part in ATTENTION.items():
        found[part] = [name for name in names if word in name.split(".")]
    blocks = {name: _block(name, _row_lengths(names)) for name in names}
    for block in dict.fromkeys(blocks.values()):
        found[block] = [name for name in names if blocks[name] == block]
    found = {part: held for part, held in found.items() if held or part == NOTHING}
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _row_lengths(names: Sequence[str]) -> dict[str, int]:
    """Row of blocks -> how many there are."""
    found: dict[str, int] = {}
    for name in names:
        words = name.split(".")
        if words[0] in ROWS and words[1].isdigit():
            found[words[0]] = max(found.get(words[0], 0), int(words[1]) + 1)
    return found


def _block(name: str, rows: dict[str, int]) -> str:
    words = name.split(".")
    if words[0] in STAGES:
        return f"{STAGES[words[0]]} {words[1]}"
    if words[0] == "mid_block":
        return "mid block"
    if words[0] not in rows or not words[1].isdigit():
        return REST
    group = int(words[1]) * GROUPS // rows[words[0]]
    inside = [place for place in range(rows[words[0]]) if place * GROUPS // rows[words[0]] == group]
    kind = words[0].removesuffix("s").replace("_", " ")
    return f"{kind} {inside[0]}" if len(inside) == 1 else f"{kind} {inside[0]} to {inside[-1]}"


def _order(part: str) -> tuple[int, int]:
    """As the signal meets the parts, "rest" last."""
    heads = (
        NOTHING,
        *ATTENTION.values(),
        "down",
        "mid",
        "up",
        "transformer",
        "single",
        "block",
        "layer",
        REST,
    )
    place = next(place for place, head in enumerate(heads) if part.startswith(head))
    numbers = [int(word) for word in part.split() if word.isdigit()]
    return place, numbers[0] if numbers else 0


def _donor(target: Target) -> LiveModel:
    if target.donor is None:
        raise UsageError("graft", "there is no model to take parts from", "give SOURCE or --base")
    return target.donor


def _refuse_other_build(model: LiveModel, donor: Any) -> None:
    shapes = {name: weight.shape for name, weight in donor.named_parameters()}
    own = {name: weight.shape for name, weight in model.denoiser.named_parameters()}
    odd = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
    if odd:
        raise UsageError(
            "the donor of graft",
            f"is built otherwise than {model.source} ({odd[0]})",
            "give the model that SOURCE was made from",
        )


@dataclass(frozen=True)
class GraftTable:
    """Which part brings which image back.

    Attributes:
        parts: the rows.
        scores: [part][prompt], the 90th percentile over the selection seeds; on the similarity's scale.
    """

    parts: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]


def graft_table(units: Sequence[AttackUnit], mask: int = 0) -> GraftTable:
    """The table of part x prompt, from the units of this attack on one model, one per prompt.

    Raises:
        UsageError: there are none, or their parts differ.
    """
    kinds = {unit.variants for unit in units}
    if len(kinds) != 1:
        raise UsageError("graft table", f"{len(units)} units of {len(kinds)} kinds", "run graft on one model")
    columns = [unit.by_variant(mask)[-1] for unit in units]
    return GraftTable(kinds.pop(), tuple(zip(*columns, strict=True)))
