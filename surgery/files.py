"""Files as all parts write them: whole or not at all, as JSON that a person can read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import UsageError


def json_text(document: Mapping[str, Any]) -> str:
    """JSON with one line per top-level field, and one per entry of `layers` and `prompts`: readable, and
    diffable.
    """
    lines = []
    for name, value in document.items():
        if name == "layers" and value:
            inner = ",\n".join(f"    {json.dumps(key)}: {json.dumps(rows)}" for key, rows in value.items())
            lines.append(f'  "layers": {{\n{inner}\n  }}')
        elif name == "prompts" and isinstance(value, list) and value:
            inner = ",\n".join(f"    {json.dumps(one, ensure_ascii=False)}" for one in value)
            lines.append(f'  "prompts": [\n{inner}\n  ]')
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def check_writable(path: str | Path) -> Path:
    """The path with `~` expanded; refuses early what could not be written at the end.

    Raises:
        UsageError: it is a folder, or its folder does not exist or is not writable.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UsageError(path, "is a folder", "give the name of a file")
    if not path.parent.is_dir():
        raise UsageError(path.parent, "no such folder", "make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(path.parent, "cannot be written to", "choose another folder")
    return path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary sibling, fsync, rename.

    Raises:
        UsageError: as in `check_writable`.
    """
    path = check_writable(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
