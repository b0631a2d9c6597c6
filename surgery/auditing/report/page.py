"""`audit.html`: one self-contained page, made from the findings with a jinja2 template.

No script, no font, no picture comes from outside: charts are inline SVG, pictures are PNGs inside the page,
and a content security policy forbids everything else. Without `include_private` the page shows neither
prompts nor training images, nor any picture that gives one away: every picture that SOURCE draws of a
memory, every picture at or above the replication threshold, and what the attack brought back stay out, and
their places say so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from surgery.auditing.findings import Findings
from surgery.auditing.judgement.verdict import HIDDEN, NOT_TESTED, REMOVED, STILL
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.report.charts import attack_chart, change_chart, neuron_map
from surgery.auditing.report.document import curve_json, ordinary_summary
from surgery.auditing.store import Pictures
from surgery.auditing.units import AttackPair, AttackUnit, OrdinaryUnit, ReplicationUnit

PicturesOf = Callable[[str], Pictures]  # of a unit, by its key
PANELS = 40  # prompts with pictures, the worst first; the table lists all
ORDINARY_SHOWN = 8
THUMBNAIL = 128  # pixels
CLASSES = {STILL: "still", HIDDEN: "hidden", REMOVED: "removed", NOT_TESTED: "untested"}
MEANINGS = {
    STILL: "The prompt alone still draws the training image on more than the tolerated share of seeds.",
    HIDDEN: "The prompt no longer draws it, but an optimized embedding does, clearly more than it draws "
    "images that the model never saw. Whoever holds the weights can have the image back.",
    REMOVED: "Under the attack made here, the image is not distinguishable from images that the model never "
    "saw, and the memory at its strength in SOURCE would have been noticed. Another attack may find more.",
    NOT_TESTED: "The evidence does not carry any of the other words; the reason is given.",
}


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


def audit_page(
    findings: Findings, document: dict[str, Any], include_private: bool, pictures_of: PicturesOf
) -> str:
    """The whole page as text; `pictures_of` fetches a unit's pictures: those of all would fill the memory."""
    environment = Environment(
        loader=PackageLoader("surgery.auditing.report"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    order = list(CLASSES)
    ranked = sorted(
        range(len(findings.subjects)), key=lambda index: order.index(findings.verdicts[index].word)
    )
    units = [unit for unit in findings.ordinary if unit is not None]
    return environment.get_template("audit.html.jinja").render(
        document=document,
        classes=CLASSES,
        meanings=MEANINGS,
        names=[_name(document["prompts"][index]) for index in range(len(findings.subjects))],
        panels=[_panel(findings, document, index, include_private, pictures_of) for index in ranked[:PANELS]],
        panels_left=max(0, len(ranked) - PANELS),
        summary=ordinary_summary(findings),
        change_chart=Markup(change_chart([unit.change for unit in units])) if units else None,
        ordinary_rows=_ordinary_rows(findings, include_private, pictures_of),
        neuron_map=Markup(neuron_map(findings.layer_rows, findings.zeroed, findings.found_for)),
        counted=bool(findings.found_for),
    )


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("prompt", entry["id"]))


def _panel(
    findings: Findings, document: dict[str, Any], index: int, include_private: bool, pictures_of: PicturesOf
) -> dict[str, Any]:
    entry, unit, pair = document["prompts"][index], findings.replication[index], findings.pair(index)
    rows: list[Row] = []
    if unit is not None:
        pictures = pictures_of(ReplicationUnit.key(index))
        rows = _replication_rows(findings, unit, pictures, include_private)
        if pair.patched is not None:
            attacked = pictures_of(AttackUnit.key(findings.attack.name, "patched", index))["attacked"]
            target = pictures["target"][0]
            rows.append(_attack_row(findings, index, pair.patched, attacked, target, include_private))
    chart = Markup(_chart(findings, index, pair)) if pair.made else None
    return {"name": _name(entry), "entry": entry, "rows": rows, "chart": chart}


def _replication_rows(
    findings: Findings, unit: ReplicationUnit, pictures: Pictures, include_private: bool
) -> list[Row]:
    threshold = findings.threshold
    label = "Stand-in target (SOURCE)" if unit.stand_in else "Training image"
    target = Shown(_uri(pictures["target"][0])) if include_private else Shown(withheld="private")
    memorized = any(value >= threshold for value in unit.before.to_target)
    before = [
        Shown(withheld="replica") if memorized and not include_private else Shown(_uri(picture))
        for picture in pictures["before"]
    ]
    after = [
        Shown(withheld="replica") if value >= threshold and not include_private else Shown(_uri(picture))
        for picture, value in zip(pictures["after"], unit.after.to_target, strict=False)
    ]
    return [Row(label, [target]), Row("SOURCE", before), Row("PATCHED, same seeds", after)]


def _attack_row(
    findings: Findings,
    index: int,
    unit: AttackUnit,
    pictures: torch.Tensor,
    target: torch.Tensor,
    include_private: bool,
) -> Row:
    removed, mask = findings.verdicts[index].word == REMOVED, findings.subjects[index].mask
    alike = similarities_to(pictures, target, findings.similarity, mask).tolist()
    shown = [
        Shown(_uri(picture))
        if include_private or (removed and value < findings.threshold)
        else Shown(withheld="brought back")
        for picture, value in zip(pictures, alike, strict=True)
    ]
    return Row(f"PATCHED after {unit.pictures_step} steps of attack", shown)


def _chart(findings: Findings, index: int, pair: AttackPair) -> str:
    place = findings.mask_place(index)
    source, patched = (
        curve_json(unit, findings.threshold)["score"] if unit is not None else None
        for unit in (pair.source, pair.patched)
    )
    controls = [unit.curve(place) for unit in findings.attack.controls]
    return attack_chart(pair.made[0].steps, source, patched, controls, findings.threshold)


def _ordinary_rows(
    findings: Findings, include_private: bool, pictures_of: PicturesOf
) -> list[dict[str, Any]]:
    measured = [(unit.change, index) for index, unit in enumerate(findings.ordinary) if unit is not None]
    public = include_private or findings.public_ordinary
    shown = []
    # the most changed first: what a publisher has to look at
    for place, (change, index) in enumerate(sorted(measured, reverse=True)[:ORDINARY_SHOWN], start=1):
        pictures = pictures_of(OrdinaryUnit.key(index))
        rows = [
            Row(label, [Shown(_uri(picture)) for picture in pictures[side]])
            for label, side in (("SOURCE", "before"), ("PATCHED", "after"))
        ]
        name = findings.ordinary_prompts[index] if public else f"ordinary prompt {place}"
        shown.append({"name": name, "change": change, "rows": rows})
    return shown


def _uri(picture: torch.Tensor) -> str:
    """One picture, uint8 [3, height, width], as a data URI, no larger than a thumbnail."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    # a smaller picture stays as it is
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
