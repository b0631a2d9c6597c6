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

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from surgery.auditing.attack.stages import attack_curve
from surgery.auditing.findings import Findings
from surgery.auditing.judgement.verdict import HIDDEN, NOT_TESTED, REMOVED, STILL
from surgery.auditing.measures.replication import similarities_to
from surgery.auditing.report.charts import attack_chart, change_chart, neuron_map
from surgery.auditing.report.document import curve_json, ordinary_summary
from surgery.auditing.stages import Unit
from surgery.auditing.store import unpack

Load = Callable[[str], Unit | None]
PANELS = 40  # prompts with pictures, the worst first; the table lists all
ORDINARY_SHOWN = 8
THUMBNAIL = 128  # pixels
CLASSES = {STILL: "still", HIDDEN: "hidden", REMOVED: "removed", NOT_TESTED: "untested"}
MEANINGS = {
    STILL: "The prompt alone still draws the training image on more than the tolerated share of seeds.",
    HIDDEN: "The prompt no longer draws it, but an optimised embedding does, clearly more than it draws "
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
    """A labelled row of pictures."""

    label: str
    kind: str
    pictures: Sequence[Shown]


def audit_page(findings: Findings, document: dict[str, Any], include_private: bool, load: Load) -> str:
    """The whole page as text; `load` fetches a unit of work with its pictures from the store."""
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
        panels=[_panel(findings, document, index, include_private, load) for index in ranked[:PANELS]],
        panels_left=max(0, len(ranked) - PANELS),
        summary=ordinary_summary(findings),
        change_chart=Markup(change_chart([unit["change"] for unit in units])) if units else None,
        ordinary_rows=_ordinary_rows(findings, include_private, load),
        neuron_map=Markup(neuron_map(findings.layer_rows, findings.zeroed, findings.found_for)),
        counted=bool(findings.found_for),
    )


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("prompt", entry["id"]))


def _panel(
    findings: Findings, document: dict[str, Any], index: int, include_private: bool, load: Load
) -> dict[str, Any]:
    entry, unit = document["prompts"][index], load(f"replication-{index}")
    rows: list[Row] = []
    chart = None
    if unit is not None:
        rows = _replication_rows(findings, unit, include_private)
        pair = findings.attacks[index] if findings.attacks else None
        if pair:
            rows += _attack_rows(findings, index, unit, load(f"attack-patched-{index}"), include_private)
            chart = Markup(_chart(findings, index, pair))
    return {"name": _name(entry), "entry": entry, "rows": rows, "chart": chart}


def _replication_rows(findings: Findings, unit: Unit, include_private: bool) -> list[Row]:
    threshold = findings.threshold
    label = "Stand-in target (SOURCE)" if unit["stand_in"] else "Training image"
    target = Shown(_uri(unit["target"])) if include_private else Shown(withheld="private")
    memorized = any(value >= threshold for value in unit["before"])
    before = [
        Shown(withheld="replica") if memorized and not include_private else Shown(_uri(picture))
        for picture in unit["pictures"]["before"]
    ]
    after = [
        Shown(withheld="replica") if value >= threshold and not include_private else Shown(_uri(picture))
        for picture, value in zip(unit["pictures"]["after"], unit["after"], strict=False)
    ]
    return [
        Row(label, "target", [target]),
        Row("SOURCE", "source", before),
        Row("PATCHED, same seeds", "patched", after),
    ]


def _attack_rows(
    findings: Findings, index: int, replication: Unit, unit: Unit | None, include_private: bool
) -> list[Row]:
    if unit is None:
        return []
    shown_anyway = include_private or findings.verdicts[index].word == REMOVED
    pictures = unpack(unit["pictures"])
    target, mask = unpack([replication["target"]])[0], findings.subjects[index].mask
    alike = similarities_to(pictures, target, findings.similarity, mask).tolist()
    shown = [
        Shown(_uri(picture))
        if include_private or (shown_anyway and value < findings.threshold)
        else Shown(withheld="brought back")
        for picture, value in zip(unit["pictures"], alike, strict=True)
    ]
    return [Row(f"PATCHED after {unit['pictures_step']} steps of attack", "attacked", shown)]


def _chart(findings: Findings, index: int, pair: dict[str, Unit]) -> str:
    place = findings.mask_places[index] if findings.mask_places else 0
    curves = {
        name: curve_json(pair[name], findings.threshold)["score"] if name in pair else None
        for name in ("source", "patched")
    }
    steps = next(iter(pair.values()))["steps"]
    controls = [attack_curve(unit, place) for unit in findings.controls]
    return attack_chart(steps, curves["source"], curves["patched"], controls, findings.threshold)


def _ordinary_rows(findings: Findings, include_private: bool, load: Load) -> list[dict[str, Any]]:
    measured = [(unit["change"], index) for index, unit in enumerate(findings.ordinary) if unit is not None]
    public = include_private or findings.public_ordinary
    shown = []
    # the most changed first: what a publisher has to look at
    for place, (change, index) in enumerate(sorted(measured, reverse=True)[:ORDINARY_SHOWN], start=1):
        pictures = (load(f"ordinary-{index}") or {})["pictures"]
        rows = [
            Row(label, side, [Shown(_uri(picture)) for picture in pictures[side]])
            for label, side in (("SOURCE", "before"), ("PATCHED", "after"))
        ]
        name = findings.ordinary_prompts[index] if public else f"ordinary prompt {place}"
        shown.append({"name": name, "change": change, "rows": rows})
    return shown


def _uri(packed: str) -> str:
    """A base64 PNG as a data URI, no larger than a thumbnail."""
    image = Image.open(io.BytesIO(base64.b64decode(packed)))
    if max(image.size) > THUMBNAIL:
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        packed = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/png;base64,{packed}"
