"""`audit.html`: one self-contained page, made from the findings with a jinja2 template.

No script, no font, no picture comes from outside: charts are inline SVG, pictures are PNGs inside the page,
and a content security policy forbids everything else. The first screen holds the verdict with its budget and
one sentence without a technical word (`surgery.auditing.report.sentence`). Without `include_private` the page
shows neither prompts nor training images, nor any picture that gives one away
(`surgery.auditing.report.pictures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from surgery.auditing.attack.graft import graft_table
from surgery.auditing.attack.relearn import steps_to_replicate
from surgery.auditing.findings import AttackFindings, Findings
from surgery.auditing.judgement.verdict import HIDDEN, NOT_FOUND, NOT_TESTED, REMOVED, STILL
from surgery.auditing.report.charts import (
    PATCHED_COLOR,
    SOURCE_COLOR,
    TWIN_COLOR,
    Attacked,
    attack_chart,
    change_chart,
)
from surgery.auditing.report.document import ordinary_summary
from surgery.auditing.report.judged import judged_columns, judged_rows
from surgery.auditing.report.maps import neuron_map, part_map
from surgery.auditing.report.pictures import (
    PicturesOf,
    Row,
    attacked_row,
    ordinary_rows,
    replication_rows,
)
from surgery.auditing.store import Pictures
from surgery.auditing.units import AttackUnit, ReplicationUnit

PANELS = 40  # prompts with pictures, the worst first; the table lists all
GRAFT = "graft"  # the attack that shows which part holds a memory
CLASSES = {
    STILL: "still",
    HIDDEN: "hidden",
    NOT_FOUND: "notfound",
    REMOVED: "removed",
    NOT_TESTED: "untested",
}
MEANINGS = {
    STILL: "The prompt alone still draws the training image on more than the tolerated share of seeds.",
    HIDDEN: "The prompt no longer draws it, but an attack does, more than it draws images that the model "
    "never saw. Whoever holds the weights can have the image back.",
    NOT_FOUND: "The attacks that are named did not find it and would have found half of it, but they are too "
    "few or too short to call it removed: models are known that hold their images against just such attacks.",
    REMOVED: "Attacks on the text side and on the rest of the model bring it back no more than images that "
    "the model never saw; half of the memory in SOURCE would have been noticed. Other attacks may find more.",
    NOT_TESTED: "The evidence does not carry any of the other words; the reason is given.",
}
COLORS = {"source": SOURCE_COLOR, "patched": PATCHED_COLOR, "twin": TWIN_COLOR}
LABELS = {"source": "SOURCE", "patched": "PATCHED", "twin": "twin, never shown it"}
# whose word says enough in a table
PLAIN_CODES = ("replicates", "drawn", "separated", "passed", "weak-attacks")


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
    names = [str(entry.get("prompt", entry["id"])) for entry in document["prompts"]]
    return environment.get_template("audit.html.jinja").render(
        document=document,
        classes=CLASSES,
        meanings=MEANINGS,
        colors=COLORS,
        labels=LABELS,
        plain_codes=PLAIN_CODES,
        sooner={attack.name: _sooner(document, attack.name) for attack in findings.attacks},
        columns=judged_columns(document),
        table_rows=[judged_rows(document, entry) for entry in document["prompts"]],
        names=names,
        panels=[
            {"name": names[index], **_panel(findings, document, index, include_private, pictures_of)}
            for index in ranked[:PANELS]
        ],
        panels_left=max(0, len(ranked) - PANELS),
        part_map=_part_map(findings, names, ranked),
        summary=ordinary_summary(findings),
        change_chart=Markup(change_chart([unit.change for unit in units])) if units else None,
        ordinary_rows=ordinary_rows(findings, include_private, pictures_of),
        neuron_map=Markup(neuron_map(findings.layer_rows, findings.zeroed, findings.found_for)),
        counted=bool(findings.found_for),
    )


def _panel(
    findings: Findings, document: dict[str, Any], index: int, include_private: bool, pictures_of: PicturesOf
) -> dict[str, Any]:
    """What is shown of one prompt: its pictures, and for each attack a chart and what it drew."""
    entry, unit = document["prompts"][index], findings.replication[index]
    if unit is None:
        return {"entry": entry, "rows": [], "attacks": []}
    pictures = pictures_of(ReplicationUnit.key(index))
    attacks = [
        {
            "name": attack.name,
            "effort": attack.effort,
            "counts": attack.counts,
            "chart": Markup(_chart(findings, attack, index)),
            "note": _note(findings, attack, index),
            "rows": _attacked_rows(findings, attack, index, pictures, include_private, pictures_of),
        }
        for attack in findings.attacks
        if attack.pair(index).made
    ]
    return {
        "entry": entry,
        "rows": replication_rows(findings, unit, pictures, include_private),
        "attacks": attacks,
    }


def _attacked_rows(
    findings: Findings,
    attack: AttackFindings,
    index: int,
    pictures: Pictures,
    include_private: bool,
    pictures_of: PicturesOf,
) -> list[Row]:
    if attack.pair(index).patched is None:
        return []
    drawn = pictures_of(AttackUnit.key(attack.name, "patched", index))["attacked"]
    return [attacked_row(findings, attack, index, drawn, pictures["target"][0], include_private)]


def _chart(findings: Findings, attack: AttackFindings, index: int) -> str:
    """An attack on one prompt's image, on every model, against the controls under the prompt's mask."""
    pair, place = attack.pair(index), findings.mask_place(index)
    models = [
        Attacked(COLORS[side], unit.curve(), unit.score())
        for side, unit in (("source", pair.source), ("patched", pair.patched), ("twin", pair.twin))
        if unit is not None
    ]
    controls = [Attacked("", unit.curve(place), unit.score(place)) for unit in attack.controls]
    title = f"{attack.name}: similarity to the training image against effort"
    return attack_chart(pair.made[0].steps, models, controls, findings.threshold, title)


def _note(findings: Findings, attack: AttackFindings, index: int) -> str:
    """For an attack that teaches the image: how soon each model draws it."""
    if not attack.learns:
        return ""
    pair, place = attack.pair(index), findings.mask_place(index)
    controls = [steps_to_replicate(unit, findings.threshold, place) for unit in attack.controls]
    first = {
        LABELS[side]: steps_to_replicate(unit, findings.threshold)
        for side, unit in (("source", pair.source), ("patched", pair.patched), ("twin", pair.twin))
        if unit is not None
    }
    said = [f"{label} {'never' if steps is None else f'after {steps}'}" for label, steps in first.items()]
    reached = sum(steps is not None for steps in controls)
    return f"A replica: {', '.join(said)}; {reached} of {len(controls)} controls within {attack.effort}."


def _sooner(document: dict[str, Any], attack: str) -> int:
    """How many prompts score above every control under an attack."""
    judged = [(entry["attacks"].get(attack) or {}).get("judged") for entry in document["prompts"]]
    return sum(bool(one and one["controls"] and not one["controls_at_or_above"]) for one in judged)


def _part_map(findings: Findings, names: Sequence[str], ranked: Sequence[int]) -> Markup | None:
    """Part x prompt: how alike PATCHED draws each image with one part of another model put into it."""
    attack = next((one for one in findings.attacks if one.name == GRAFT), None)
    if attack is None:
        return None
    shown = [(index, attack.pair(index).patched) for index in ranked[:PANELS]]
    units = [(names[index], unit) for index, unit in shown if unit is not None]
    if not units:
        return None
    table = graft_table([unit for _, unit in units])
    rows = [(name, column) for (name, _), column in zip(units, zip(*table.scores, strict=True), strict=True)]
    if attack.controls:
        highest = tuple(max(scores) for scores in graft_table(attack.controls).scores)
        rows.append(("highest of the controls", highest))
    return Markup(part_map(table.parts, rows, findings.threshold))
