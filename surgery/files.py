"""Files as all parts write them: whole or not at all, as JSON that a person can read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.errors import UsageError


def expanded(path: str | Path) -> Path:
    """A path as a person writes it, `~` expanded; the one door by which paths of users come in.

    It need not exist. What no later step could use is refused here, with one clear line: the home folder of
    nobody, a name that is too long, links that lead in a circle, a folder that may not be entered.

    Raises:
        UsageError: it is such a path.
    """
    try:
        path = Path(path).expanduser()
        os.stat(path)  # noqa: PTH116 -- Path.exists() would take a circle of links for a missing file
    except (FileNotFoundError, NotADirectoryError):
        pass
    except RuntimeError:
        raise UsageError(path, "there is no such home folder", "write the path without ~") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UsageError(path, f"is not a usable path ({cause})", "check the path") from None
    return Path(path)


def absolute(path: Path) -> Path:
    """The path made absolute, no link followed.

    Raises:
        UsageError: it is relative to a current folder that was deleted.
    """
    try:
        return path.absolute()
    except OSError as error:
        cause = f"the current folder is not there ({error.strerror})"
        raise UsageError(path, cause, "go to another folder, or give an absolute path") from None


def strict_json(document: Any) -> str:
    """A document as one line of JSON that every reader takes.

    JSON has no infinite number and no NaN; both become null.
    """
    return json.dumps(_finite(document), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


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
    path = expanded(path)
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
