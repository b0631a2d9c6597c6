"""A generator of lies: patched checkpoints that are not what `patch` would have written.

Each lie takes an honest output (`lie_layouts`) and changes ONE thing in it. `LIES` is the table; every entry
draws from a random generator, so that thousands of different lies come out of it. The proof, `diff --plan`,
must believe none of them. `HARMLESS` are changes after which the answer must still be yes.

What is NOT called a lie here: an output without its manifest (other tools write none), an empty folder, a
README or picture that the source has too (`--keep` carries it over), and a renamed single file.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from lying import folders, harmless, headers, manifests, pickles, tensors
from lying.layouts import LAYOUTS, Layout, described, make_layout
from lying.once_believed import ONCE_BELIEVED
from lying.table import LIES, NotHere, Told, Words

import surgery
from surgery.errors import SurgeryError

__all__ = [
    "HARMLESS",
    "LAYOUTS",
    "LIES",
    "ONCE_BELIEVED",
    "NotHere",
    "answer",
    "described",
    "fresh",
    "make_layout",
    "tell",
]
SUBJECTS = (tensors, headers, folders, pickles, manifests)  # importing them fills the table
HARMLESS = harmless.HARMLESS
TRIES = 24  # a drawn lie can be none (two equal tensors swapped): then another one is drawn


def fresh(layout: Layout, scratch: Path) -> Told:
    """A copy of the honest output, to be changed."""
    if scratch.exists():
        shutil.rmtree(scratch)
    shutil.copytree(layout.patched.parent, scratch / "patched")
    (scratch / "elsewhere").mkdir()
    return Told(layout, scratch / "patched" / layout.patched.name, scratch / "elsewhere")


def tell(name: str, layout: Layout, seed: str, scratch: Path) -> tuple[Told, Words] | None:
    """Tell one lie about a layout.

    Args:
        name: in `LIES`.
        layout: a layout it applies to.
        seed: of its random generator.
        scratch: a folder to tell it in; it is emptied first.

    Returns:
        the changed output and words of which a violation should name one; None where it can't be told.
    """
    for number in range(TRIES):
        told = fresh(layout, scratch)
        try:
            words = LIES[name].tell(random.Random(f"{seed} {number}"), told)
        except NotHere:
            continue
        if told.path != scratch / "patched" / layout.patched.name or is_changed(layout, told):
            return told, words
    return None


def is_changed(layout: Layout, told: Told) -> bool:
    """Whether the output is not, byte by byte, link by link, what it was."""
    return _entries(layout.patched.parent) != _entries(told.path.parent)


def _entries(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not path.is_dir():
            found[name] = "special"
    return found


def answer(layout: Layout, path: Path) -> tuple[bool, list[str]]:
    """Whether the proof says yes, and what it says; an error that is shown to the user is a no.

    Any other exception is a defect of the proof and gets out.
    """
    try:
        found = surgery.diff(layout.source, path, plan=layout.rows)
    except SurgeryError as error:
        return False, [str(error)]
    return bool(found.as_planned), list(found.violations or ())
