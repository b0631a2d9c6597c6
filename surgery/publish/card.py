"""The model card: the source's card kept, its metadata merged, and a section that says what was done.

Nothing is invented: a license is carried over or absent, and `base_model` is the source's Hub id or whatever
the source's card said. Metadata that nobody here knows is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.checkpoint.formats.regular_file import read_regular
from surgery.checkpoint.survey.source import FILE, locate
from surgery.errors import UsageError
from surgery.files import expanded, write_atomically
from surgery.publish.card_text import BEGIN, END, card_section
from surgery.publish.stage import PUBLISHED, accepting, published_section, seal, write_manifest
from surgery.publish.staged import (
    CARD,
    Staged,
    StagedFile,
    manifest_bytes,
    open_staged,
    read_manifest,
    with_content,
)

TAGS = ("surgery", "memorization")
RELATION = "finetune"  # of the Hub's four relations (adapter, merge, quantized, finetune) the one that fits
_LARGEST_CARD = 4 * 1024 * 1024
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SECTION = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END) + r"\n?\n?", re.DOTALL)
_MODEL_INDEX = "model-index"
_REPAIR = "repair the card, or pass another with --card"


def write_card(
    out: str | Path,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    card: str | Path | None = None,
    base_model: str | None = None,
    fields: Mapping[str, Any] | None = None,
    accept_risk: str | None = None,
) -> Path:
    """Write `README.md` into a patched folder, and its hash into the manifest; `record_audit` comes first.

    The card that is kept is `card`, else the source's `README.md`, else the one that lies in the folder. The
    section by surgery takes the place of an earlier one.

    Args:
        out: the folder.
        source: the source checkpoint, a folder or a cached Hub id.
        revision: of a Hub id.
        card: a Markdown file.
        base_model: the source's Hub id, where the manifest does not know it.
        fields: further metadata, over the card's; a license only if the caller has the right to say it.
        accept_risk: as for `record_audit`.

    Returns:
        the card's path.

    Raises:
        UsageError: no audit was recorded, or the card or its metadata cannot be read.
        GateError: as for `record_audit`.
    """
    staged = open_staged(out)
    staged.check_whole()
    manifest = read_manifest(staged)
    published_section(manifest)
    if accept_risk is not None:
        manifest = accepting(manifest, accept_risk)
    text = card_text(staged, manifest, _kept_card(staged, source, revision, card), base_model, fields)
    write_manifest(staged, manifest)
    write_atomically(staged.root / CARD, text.encode("utf-8"))
    seal(staged.root, changed=(CARD,))
    return staged.root / CARD


def preview_accepted(staged: Staged, files: Sequence[StagedFile], accept_risk: str) -> tuple[StagedFile, ...]:
    """The files as they will be once a risk is accepted: card and manifest change, and nothing is written.

    Args:
        staged: the folder.
        files: as they are.
        accept_risk: the reason.

    Raises:
        UsageError: as for `write_card`.
    """
    manifest = accepting(read_manifest(staged), accept_risk)
    card = card_text(staged, manifest, _kept_card(staged, None, None, None)).encode("utf-8")
    by_path = {file.path: file for file in files}
    if CARD in by_path:
        by_path[CARD] = with_content(by_path[CARD], card)
    section = dict(published_section(manifest))
    entries = [entry for entry in section["files"] if entry["path"] != CARD]
    entries += [by_path[CARD].as_json()] if CARD in by_path else []
    section["files"] = sorted(entries, key=lambda entry: entry["path"])
    name = staged.manifest_path.name
    if name in by_path:
        by_path[name] = with_content(by_path[name], manifest_bytes({**manifest, PUBLISHED: section}))
    return tuple(by_path.values())


def card_text(
    staged: Staged,
    manifest: Mapping[str, Any],
    kept: str,
    base_model: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> str:
    """The whole card: metadata, the section by surgery, and the kept card.

    Raises:
        UsageError: the metadata of the kept card cannot be read, or what is given does not fit.
    """
    from huggingface_hub import ModelCardData
    from huggingface_hub.utils import yaml_dump

    metadata, body = split_card(kept)
    model_index = metadata.pop(_MODEL_INDEX, None)  # written as it was read: ModelCardData would rewrite it
    try:
        data = ModelCardData(**_merged(metadata, staged, manifest, base_model, dict(fields or {})))
    except (TypeError, ValueError) as error:
        raise UsageError("card", f"its metadata cannot be used ({error})", _REPAIR) from None
    merged = data.to_dict()
    if model_index is not None:
        merged[_MODEL_INDEX] = model_index
    yaml = yaml_dump(merged, sort_keys=False).strip()
    body = _SECTION.sub("", body).strip("\r\n")
    return f"---\n{yaml}\n---\n\n{card_section(manifest)}" + (f"\n{body}\n" if body else "")


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The metadata and the body of a card.

    Raises:
        UsageError: the metadata is no YAML object.
    """
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    match = REGEX_YAML_BLOCK.search(text)
    if match is None:
        return {}, text
    try:
        metadata = yaml.safe_load(match.group(2))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise UsageError("card", f"its metadata is no YAML ({cause})", _REPAIR) from None
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(name, str) for name in metadata):
        raise UsageError("card", "its metadata is no YAML object with names", _REPAIR)
    return metadata, text[match.end() :]


def _merged(
    metadata: dict[str, Any],
    staged: Staged,
    manifest: Mapping[str, Any],
    base_model: str | None,
    fields: dict[str, Any],
) -> dict[str, Any]:
    merged = {**metadata, **fields}
    parent = base_model or fields.get("base_model") or _source_id(manifest["source"])
    if parent is not None:
        if not isinstance(parent, str) or not _HUB_ID.fullmatch(parent):
            raise UsageError("base_model", f"{parent!r} is no Hub id", "give OWNER/NAME")
        merged |= {"base_model": parent, "base_model_relation": RELATION}
    tags = merged.get("tags") or []
    merged["tags"] = list(dict.fromkeys([*([tags] if isinstance(tags, str) else tags), *TAGS]))
    if not staged.is_file:
        merged.setdefault("library_name", "diffusers")
    if "inpainting" not in manifest["source"]["family"]:
        merged.setdefault("pipeline_tag", "text-to-image")
    return merged


def _source_id(source: Mapping[str, Any]) -> str | None:
    """The Hub id in a manifest; a name without a revision is the name of somebody's folder."""
    name = "/".join(str(source["name"]).split("/")[:2])
    return name if source["revision"] and _HUB_ID.fullmatch(name) else None


def _kept_card(
    staged: Staged, source: str | Path | None, revision: str | None, card: str | Path | None
) -> str:
    path = staged.root / CARD
    if card is not None:
        path = expanded(card)
        if not path.is_file():
            raise UsageError(card, "is no file", "give a Markdown file")
    elif source is not None:
        found = locate(source, revision)
        if found.kind != FILE and (found.path / CARD).is_file():
            path = found.path / CARD
    if not path.is_file():
        return ""
    try:
        return read_regular(path, path.name, _LARGEST_CARD).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(path, "is no UTF-8 text", _REPAIR) from None
