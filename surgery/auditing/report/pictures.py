"""The pictures of the page, and which of them are withheld.

Without `include_private` no picture that gives a memory away is shown: no training image, nothing that
SOURCE draws of a memory, nothing at or above the replication threshold. What an attack drew is shown only
where the verdict is `removed`, the attack had a say in it, and did not teach the image to the weights itself.
Whatever is withheld keeps its place, which says why.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from surgery.auditing.findings import AttackFindings, Findings
from surgery.auditing.judgement.verdict import REMOVED
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.store import Pictures
from surgery.auditing.units import OrdinaryUnit, ReplicationUnit

PicturesOf = Callable[[str], Pictures]  # of a unit, by its key
ORDINARY_SHOWN = 8
THUMBNAIL = 128  # pixels


@dataclass(frozen=True)
class Shown:
    """One picture's place on the page: its data URI, or why it is withheld."""

    uri: str = ""
    withheld: str = ""


@dataclass(frozen=True)
class Row:
    """A labeled row of pictures."""

    label: str
    pictures: Sequence[Shown]


def replication_rows(
    findings: Findings, unit: ReplicationUnit, pictures: Pictures, include_private: bool
) -> list[Row]:
    """The training image, and what SOURCE and PATCHED draw from the prompt alone."""
    threshold = findings.threshold
    label = "Stand-in target (SOURCE)" if unit.stand_in else "Training image"
    target = Shown(uri(pictures["target"][0])) if include_private else Shown(withheld="private")
    memorized = any(value >= threshold for value in unit.before.to_target)
    before = [
        Shown(withheld="replica") if memorized and not include_private else Shown(uri(picture))
        for picture in pictures["before"]
    ]
    after = [
        Shown(withheld="replica") if value >= threshold and not include_private else Shown(uri(picture))
        for picture, value in zip(pictures["after"], unit.after.to_target, strict=False)
    ]
    return [Row(label, [target]), Row("SOURCE", before), Row("PATCHED, same seeds", after)]


def attacked_row(
    findings: Findings,
    attack: AttackFindings,
    index: int,
    pictures: torch.Tensor,
    target: torch.Tensor,
    include_private: bool,
) -> Row:
    """What an attack drew from PATCHED.

    Args:
        pictures: uint8 [pictures, 3, height, width].
        target: what they are compared with, of the same shape.
    """
    mask = findings.subjects[index].mask
    harmless = findings.verdicts[index].word == REMOVED and attack.counts and not attack.learns
    shown = []
    for picture, value in zip(
        pictures, similarities_to(pictures, target, findings.similarity, mask).tolist(), strict=True
    ):
        if include_private or (harmless and value < findings.threshold):
            shown.append(Shown(uri(picture)))
        else:
            shown.append(Shown(withheld="brought back" if value >= findings.threshold else "attacked"))
    return Row("PATCHED, attacked", shown)


def ordinary_rows(findings: Findings, include_private: bool, pictures_of: PicturesOf) -> list[dict[str, Any]]:
    """The ordinary prompts that changed most, by both models at equal seeds."""
    measured = [(unit.change, index) for index, unit in enumerate(findings.ordinary) if unit is not None]
    public = include_private or findings.public_ordinary
    shown = []
    # the most changed first: what a publisher has to look at
    for place, (change, index) in enumerate(sorted(measured, reverse=True)[:ORDINARY_SHOWN], start=1):
        pictures = pictures_of(OrdinaryUnit.key(index))
        rows = [
            Row(label, [Shown(uri(picture)) for picture in pictures[side]])
            for label, side in (("SOURCE", "before"), ("PATCHED", "after"))
        ]
        name = findings.ordinary_prompts[index] if public else f"ordinary prompt {place}"
        shown.append({"name": name, "change": change, "rows": rows})
    return shown


def uri(picture: torch.Tensor) -> str:
    """One picture, uint8 [3, height, width], as a data URI, no larger than a thumbnail."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    # a smaller picture stays as it is
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
