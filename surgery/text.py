"""Text for a terminal. Names of files, tensors and layers come from checkpoints that strangers made."""

from __future__ import annotations


def printable(text: object) -> str:
    """One line of text in which whatever a terminal would obey, or could not show, is escaped.

    A file's or a tensor's name may hold escape sequences (which can hide a line, or forge one), line breaks,
    and bytes that are no text.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else _escaped(each) for each in line)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
