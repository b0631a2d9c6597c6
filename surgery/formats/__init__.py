"""Every file that surgery writes or reads, field by field, as data: where it lies and who may see it.

`docs/formats.md` and `docs/recipes.md` are generated from this table, and `tests/formats` holds it
against real documents, both ways: no field of a document is missing here, and none stands here that no
document has. Whoever adds a field to an artefact adds a line here. The module imports nothing heavy.

Paths of fields are dotted. `*` stands for any name (a layer, a stage, a setting), `[]` for every entry of a
list.
"""

from __future__ import annotations

from surgery.formats.applying import APPLY_STATE, RECIPE
from surgery.formats.audit import AUDIT, AUDIT_STATE
from surgery.formats.checkpoint import MANIFEST
from surgery.formats.fields import TYPES, Format, FormatField
from surgery.formats.hardening import EDIT, HARDENING, HARDENING_STATE
from surgery.formats.localization import JOURNAL, NEURONS, RECORD
from surgery.formats.others import DEMO, PLANTED
from surgery.formats.scanning import CALIBRATION, SCAN, SCAN_JOURNAL

FORMATS = (
    NEURONS,
    CALIBRATION,
    JOURNAL,
    SCAN_JOURNAL,
    SCAN,
    EDIT,
    HARDENING,
    HARDENING_STATE,
    MANIFEST,
    AUDIT,
    AUDIT_STATE,
    RECIPE,
    APPLY_STATE,
    DEMO,
    PLANTED,
)

__all__ = [
    "APPLY_STATE",
    "AUDIT",
    "AUDIT_STATE",
    "CALIBRATION",
    "DEMO",
    "EDIT",
    "FORMATS",
    "HARDENING",
    "HARDENING_STATE",
    "JOURNAL",
    "MANIFEST",
    "NEURONS",
    "PLANTED",
    "RECIPE",
    "RECORD",
    "SCAN",
    "SCAN_JOURNAL",
    "TYPES",
    "Format",
    "FormatField",
]
