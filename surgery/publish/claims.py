"""What a manifest says of itself and of the folder, held against the bytes that lie there.

None of it needs the source. A manifest that was rewritten to match other bytes can agree with itself here;
then the rows (`rows`), the source (`proof`) or a signature tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from surgery.checkpoint.edit.manifest import FORMAT, neurons_sha256
from surgery.errors import UsageError
from surgery.formats import MANIFEST
from surgery.neurons import NeuronSet
from surgery.publish.card_text import BEGIN, END, card_section
from surgery.publish.evidence import gate_passed
from surgery.publish.method import phrases
from surgery.publish.schema import strange_fields
from surgery.publish.stage import PUBLISHED
from surgery.publish.staged import ADDED, CARD, SIGNATURE, Staged, StagedFile, manifest_bytes

_NEEDED = ("versions", "source", "neurons", "copies", "files", "left_out", "verified")


def unreadable(manifest: Mapping[str, Any]) -> list[str]:
    """Why a manifest cannot be checked any further: another format, strange or missing fields."""
    if manifest.get("format") != FORMAT:
        return [f"the manifest is of the format {manifest.get('format')!r}, not {FORMAT!r}"]
    problems = [f"the manifest lacks {name}" for name in _NEEDED if name not in manifest]
    problems += [f"the manifest's field {sentence}" for sentence in strange_fields(manifest, MANIFEST.fields)]
    problems += _missing(manifest) if not problems else []
    return problems


def manifest_neurons(manifest: Mapping[str, Any]) -> NeuronSet:
    """The rows that a manifest says are zero.

    Raises:
        UsageError: they are no rows.
    """
    return NeuronSet(manifest["neurons"]["layers"])


def untrue_claims(
    manifest: Mapping[str, Any], text: bytes, files: Mapping[str, StagedFile], staged: Staged
) -> Iterator[str]:
    """Everything that a manifest says and that is not so, one sentence each.

    Args:
        manifest: readable (`unreadable` found nothing).
        text: its file.
        files: every file of the folder, hashed.
        staged: the folder.
    """
    if text != manifest_bytes(dict(manifest)):
        yield "the manifest is not written as surgery writes it"
    neurons = manifest["neurons"]
    try:
        rows = manifest_neurons(manifest)
    except UsageError as error:
        yield f"the manifest's neurons are none: {error}"
    else:
        if neurons["sha256"] != neurons_sha256(rows) or neurons["count"] != rows.count:
            yield "the manifest's neurons do not have the count and the sha256 that it gives"
    section = manifest.get(PUBLISHED)
    recorded = {entry["path"]: entry for entry in section["files"]} if section else {}
    patched = {entry["path"]: entry for entry in manifest["files"]}
    yield from _untrue_files(patched, recorded, files, staged)
    if section:
        yield from _untrue_section(section, manifest, files)


def _untrue_files(
    patched: Mapping[str, Mapping[str, Any]],
    recorded: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, StagedFile],
    staged: Staged,
) -> Iterator[str]:
    answered = {staged.manifest_path.name, SIGNATURE}
    for path, file in files.items():
        if path in answered:
            continue
        weights = " weight" if path.endswith(".safetensors") else ""
        if path not in patched and path not in ADDED:
            yield f"{path} is an unverified{weights} file: patch did not write it"
        elif recorded and path not in recorded:
            yield f"{path} is an unverified file: it was added after the manifest was written"
        elif path not in patched and not recorded:
            yield f"{path} is an unverified file: the manifest does not know it"
        if path in recorded and (recorded[path]["sha256"], recorded[path]["bytes"]) != (
            file.sha256,
            file.bytes,
        ):
            yield f"{path} is not the file that was published: its sha256 is another"
        entry = patched.get(path)
        if entry is None or (path == CARD and recorded):  # a kept card got its section since
            continue
        if entry["bytes"] != file.bytes or entry["sha256"] not in (None, file.sha256):
            yield f"{path} is not the file that patch wrote: its sha256 is another"
    yield from (f"{path} is missing" for path in patched.keys() | recorded.keys() if path not in files)


def _untrue_section(
    section: Mapping[str, Any], manifest: Mapping[str, Any], files: Mapping[str, StagedFile]
) -> Iterator[str]:
    if section["gate"]["passed"] != gate_passed(section["audit"]):
        yield "the manifest's gate is not what its audit says"
    if any(phrases(section.get("method"))):
        yield "the manifest's method holds a text that is no name of a method and no version"
    card = files.get(CARD)
    if card is None or section["surgery"] != version("surgery"):
        return  # another version words the card in another way
    text = card.location.read_text(encoding="utf-8", errors="replace")
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or text[begin : end + len(END) + 1] != card_section(manifest):
        yield f"{CARD} does not say what the manifest says"


def _missing(manifest: Mapping[str, Any]) -> list[str]:
    """Fields that must be there, where the table of the format only says what may be."""
    wanted = {
        "versions": ("surgery",),
        "source": ("name", "kind", "family", "revision"),
        "neurons": ("count", "layers", "sha256"),
        PUBLISHED: ("surgery", "audit", "prompts", "gate", "files"),
    }
    groups: list[tuple[str, Any, tuple[str, ...]]] = [
        (name, manifest[name], fields) for name, fields in wanted.items() if name in manifest
    ]
    groups += [("files[]", each, ("path", "bytes", "sha256")) for each in manifest["files"]]
    groups += [("copies[]", each, ("label", "naming", "dtypes", "files")) for each in manifest["copies"]]
    groups += [("left_out[]", each, ("count",)) for each in manifest["left_out"]]
    section = manifest.get(PUBLISHED)
    if isinstance(section, dict) and {"gate", "files", "prompts"} <= section.keys():
        groups.append(("published.gate", section["gate"], ("passed", "accepted_risk")))
        groups += [("published.files[]", each, ("path", "bytes", "sha256")) for each in section["files"]]
        groups += [("published.prompts[]", each, ("id", "verdict", "phrase")) for each in section["prompts"]]
        if isinstance(section.get("audit"), dict):
            audit = ("verdict", "phrase", "reason", "counts", "complete", "bound", "attacks")
            groups.append(("published.audit", section["audit"], audit))
    return [
        f"the manifest lacks {group}.{name}"
        for group, value, names in groups
        for name in names
        if not isinstance(value, dict) or name not in value
    ]
