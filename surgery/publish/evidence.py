"""From `audit.json` to what a manifest may say of it: words and numbers, and no prompt.

1. An audit that holds private matter is refused, whatever it says of itself.
2. It must be an audit of these weights: the hashes of the weight files it was made on are compared.
3. Copied are the verdict, the counts, the summary of the attacks, and of every prompt its salted id and word.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.checkpoint.formats.json_text import read_small_json
from surgery.errors import GateError, UsageError
from surgery.files import expanded, strict_json
from surgery.publish.words import REMOVED, WORDS

_FORMAT = re.compile(r"surgery\.audit/\d{1,4}")
_SALTED = re.compile(r"[a-z]?[0-9a-f]{8,64}")
_LARGEST = 256 * 1024 * 1024
_LONGEST_TEXT, _LONGEST_LIST, _DEEPEST = 1000, 32, 6
_SHOWN_SHA256 = 12

Evidence = tuple[dict[str, Any], list[dict[str, Any]]]


def read_audit(audit: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """An audit's document, and the sha256 of its file (or of its JSON, where it is no file).

    Raises:
        UsageError: it is no `audit.json`.
    """
    if isinstance(audit, Mapping):
        document = dict(audit)
        digest = hashlib.sha256(strict_json(document).encode()).hexdigest()
    else:
        path = expanded(audit)
        document = read_small_json(
            path, path.name, _LARGEST, "give the audit.json that `surgery audit` wrote"
        )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not _FORMAT.fullmatch(str(document.get("format"))):
        shown = "audit" if isinstance(audit, Mapping) else audit
        raise UsageError(shown, "is no audit.json of surgery", "give the one that `surgery audit` wrote")
    return document, digest


def evidence_of(document: Mapping[str, Any], digest: str, files: Sequence[Mapping[str, Any]]) -> Evidence:
    """What the manifest says of an audit: the summary, and one entry a prompt.

    Args:
        document: of `audit.json`.
        digest: its sha256.
        files: the entries of the published files, with `path` and `sha256`.

    Raises:
        GateError: it holds private matter, or was made on other weights.
        UsageError: a field is missing, or is not what it should be.
    """
    if found := next(_private(document), ""):
        way_out = "audit again without --include-private"
        raise GateError("audit", f"it holds private matter ({found})", way_out)
    word = document.get("verdict")
    if word not in WORDS:
        raise UsageError("audit", f"its verdict is {word!r}, which is no verdict", "audit again")
    summary = {
        "format": document["format"],
        "sha256": digest,
        "verdict": word,
        "phrase": _text(document.get("phrase") or word, "phrase"),
        "reason": _text(document.get("reason") or "", "reason"),
        "counts": _counts(document.get("counts")),
        "complete": document.get("complete") is True,
        "bound": _is_bound(document, files),
        "attacks": _numbers(document.get("attacks"), 0),
    }
    return summary, [_prompt(entry) for entry in document.get("prompts") or ()]


def gate_passed(summary: Mapping[str, Any] | None) -> bool:
    """Whether an audit's summary opens the gate: `removed`, by a complete audit of these very weights."""
    return summary is not None and (
        summary.get("verdict") == REMOVED and summary.get("complete") is True and summary.get("bound") is True
    )


def gate_reason(summary: Mapping[str, Any] | None) -> str:
    """Why the gate is shut, as a clause; only where it is."""
    if summary is None:
        return "no audit was made"
    if summary.get("verdict") != REMOVED:
        return f"the audit says {summary.get('phrase')!r}"
    if summary.get("complete") is not True:
        return "the audit is not complete"
    return "the audit does not name the weight files it was made on"


def _private(document: Mapping[str, Any]) -> Iterator[str]:
    """Where an audit's document holds private matter."""
    if document.get("private") is not False:
        yield "its field `private` is not false"
    prompts = document.get("prompts")
    for entry in prompts if isinstance(prompts, list) else ():
        if not isinstance(entry, dict) or "prompt" in entry:
            yield "it quotes prompts"
        elif not _SALTED.fullmatch(str(entry.get("id"))):
            yield "the id of a prompt is no salted hash"


def _is_bound(document: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the audit names the weight files it was made on; raises where they are others."""
    models = document.get("models")
    patched = models.get("patched") if isinstance(models, dict) else None
    named = patched.get("sha256") if isinstance(patched, dict) else None
    if not isinstance(named, dict) or not named:
        return False
    held: dict[str, set[str]] = {}
    for entry in files:
        held.setdefault(PurePosixPath(entry["path"]).name, set()).add(entry["sha256"])
    for name, digest in named.items():
        if digest not in held.get(str(name), set()):
            cause = f"was made on other weights ({name}, sha256 {str(digest)[:_SHOWN_SHA256]}...)"
            raise GateError("audit", cause, "audit the checkpoint that is to be published")
    return True


def _prompt(entry: Mapping[str, Any]) -> dict[str, Any]:
    word = entry.get("verdict")
    if word not in WORDS:
        raise UsageError("audit", f"a prompt's verdict is {word!r}, which is no verdict", "audit again")
    return {"id": entry["id"], "verdict": word, "phrase": _text(entry.get("phrase") or word, "phrase")}


def _counts(counts: Any) -> dict[str, int]:
    known = isinstance(counts, dict) and all(
        word in WORDS and isinstance(count, int) and not isinstance(count, bool)
        for word, count in counts.items()
    )
    if not known:
        raise UsageError("audit", "its counts are not numbers of prompts for each verdict", "audit again")
    return dict(counts)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise UsageError("audit", f"its {name} is no short text", "audit again")
    return " ".join(value.split())


def _numbers(value: Any, depth: int) -> Any:
    """Numbers and short words of a summary; long lists (curves, scores of controls) stay in `audit.json`."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        inner = {str(name): _numbers(one, depth + 1) for name, one in value.items() if name != "prompt"}
        return {name: one for name, one in inner.items() if one is not None}
    if isinstance(value, list):
        if len(value) > _LONGEST_LIST:
            return None
        return [one for one in (_numbers(each, depth + 1) for each in value) if one is not None]
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else None
    return value if isinstance(value, int | float) else None
