"""Lies about manifests: the tensors are right, but what vouches for them is not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from lying.layouts import manifest_path, read_json
from lying.table import (
    PROMPT,
    NotHere,
    Tell,
    Told,
    Words,
    as_safetensors,
    is_written,
    lie,
    original_weights,
)


def manifest_lie(change: Callable[[random.Random, dict[str, Any]], None]) -> Tell:
    """Change the manifest's JSON value."""

    def tell(random: random.Random, told: Told) -> Words:
        path = manifest_path(told.path)
        manifest = read_json(path)
        change(random, manifest)
        path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return "manifest", path.name

    return tell


def _rows_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    rows = manifest["neurons"]["layers"][random.choice(list(manifest["neurons"]["layers"]))]
    random.choice([lambda: rows.pop(), lambda: rows.append(rows[-1] + 1), lambda: rows.append(rows[-1])])()


def _layer_added(random: random.Random, manifest: dict[str, Any]) -> None:
    name = random.choice([PROMPT, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"])
    manifest["neurons"]["layers"][name] = [1]


def _zeroed_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    file = random.choice([file for file in manifest["files"] if "zeroed" in file])
    name = random.choice(list(file["zeroed"]))
    random.choice([lambda: file["zeroed"].pop(name), lambda: file["zeroed"][name].append(1)])()


def _hash_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    file = random.choice([file for file in manifest["files"] if file["sha256"]])
    entry = random.choice([file, file["source"]])
    entry["sha256"] = random.choice([f"{random.getrandbits(256):064x}", PROMPT, "", None])


def _neurons_hash_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    manifest["neurons"]["sha256"] = random.choice([f"{random.getrandbits(256):064x}", PROMPT, None])


def _counts_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    place = random.randrange(3)
    if place == 0:
        manifest["neurons"]["count"] += random.choice([1, -1, 1000])
    elif place == 1:
        name = random.choice(list(manifest["verified"]))
        manifest["verified"][name] += random.choice([1, 10])
    else:
        file = random.choice(manifest["files"])
        random.choice([file, file["source"]])["bytes"] += 1


def _field_added(random: random.Random, manifest: dict[str, Any]) -> None:
    places = [manifest, manifest["source"], manifest["neurons"], manifest["versions"], manifest["verified"]]
    places += [random.choice(manifest["files"]), random.choice(manifest["copies"])]
    random.choice(places)[random.choice(["prompt", "note", "caption", ""])] = PROMPT


def _field_removed(random: random.Random, manifest: dict[str, Any]) -> None:
    places = [manifest, manifest["source"], manifest["neurons"], random.choice(manifest["files"])]
    place = random.choice(places)
    del place[random.choice(list(place))]


def _format_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    manifest["format"] = random.choice(["surgery.manifest/2", "surgery.manifest/0", "", None, PROMPT])


def _version_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    manifest["versions"][random.choice(["surgery", "python"])] = random.choice([PROMPT, "", None, [1]])


def _text_slipped_in(random: random.Random, manifest: dict[str, Any]) -> None:
    file, copy = random.choice(manifest["files"]), random.choice(manifest["copies"])
    place, name = random.choice(
        [
            (manifest["source"], "family"),
            (manifest["source"], "revision"),
            (manifest["source"], "kind"),
            (manifest["neurons"], "fingerprint"),
            (copy, "label"),
            (copy, "naming"),
            (copy, "variant"),
            (file, "role"),
            (file, "action"),
            (file, "path"),
        ]
    )
    place[name] = PROMPT


def _file_entries_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    files = manifest["files"]
    change = random.randrange(3)
    if change == 0:
        files.pop(random.randrange(len(files)))
    elif change == 1:
        files.append(random.choice(files))
    else:
        files.append(random.choice(files) | {"path": "other.safetensors"})


def _copies_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    copies = manifest["copies"]
    change = random.randrange(4)
    if change == 0:
        copies.pop(random.randrange(len(copies)))
    elif change == 1:
        copies.append(random.choice(copies))
    elif change == 2:
        random.choice(copies)["dtypes"] = ["F64"]
    else:
        random.choice(copies)["files"].append("other.safetensors")


def _left_out_changed(random: random.Random, manifest: dict[str, Any]) -> None:
    change = random.randrange(3)
    if change == 0:
        entry = {"role": "pickled weights", "reason": "a pickle", "files": 1, "bytes": 1}
        manifest["left_out"].append(entry)
    elif change == 1:
        manifest["left_out"].append({"role": "other", "reason": PROMPT, "files": 3, "bytes": 3})
    elif manifest["left_out"]:
        random.choice(manifest["left_out"])["reason"] = PROMPT
    else:
        raise NotHere


MANIFEST_CHANGES: dict[str, Callable[[random.Random, dict[str, Any]], None]] = {
    "other rows": _rows_changed,
    "a layer added": _layer_added,
    "other zeroed rows of a file": _zeroed_changed,
    "the hash of a file changed": _hash_changed,
    "the hash of the neurons changed": _neurons_hash_changed,
    "a number changed": _counts_changed,
    "a field added that holds a prompt": _field_added,
    "a field removed": _field_removed,
    "another format": _format_changed,
    "versions that are none": _version_changed,
    "a prompt in a known field": _text_slipped_in,
    "the list of files changed": _file_entries_changed,
    "the list of copies changed": _copies_changed,
    "the list of what was left out changed": _left_out_changed,
}
for _change_name, _change in MANIFEST_CHANGES.items():
    lie(f"manifest: {_change_name}", is_written)(manifest_lie(_change))


@lie("manifest: not one JSON value", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = manifest_path(told.path)
    text = path.read_text(encoding="utf-8")
    texts = ["", "{}", "[]", "null", text[:-5], text + PROMPT, "{" + f'"prompt": "{PROMPT}",' + text[1:]]
    path.write_text(random.choice(texts), encoding="utf-8")
    return "manifest", path.name


@lie("manifest: a name that stands twice", is_written)
def _(random: random.Random, told: Told) -> Words:
    """JSON readers keep the last one, and people read the first."""
    path = manifest_path(told.path)
    text = path.read_text(encoding="utf-8")
    path.write_text("{" + f'\n  "versions": "{PROMPT}",' + text[1:], encoding="utf-8")
    return "manifest", path.name


@lie("manifest: of another output", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = manifest_path(told.path)
    manifest = read_json(path)
    manifest["neurons"]["layers"] = {layer: [1] for layer in manifest["neurons"]["layers"]}
    for file in manifest["files"]:
        for name in file.get("zeroed", {}):
            file["zeroed"][name] = [1]
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    return "manifest", path.name


@lie("manifest: a link, a folder or weights in its place", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = manifest_path(told.path)
    place = random.randrange(3)
    content = path.read_bytes()
    path.unlink()
    if place == 0:
        (told.elsewhere / "m.json").write_bytes(content)
        path.symlink_to(told.elsewhere / "m.json")
    elif place == 1:
        path.mkdir()
        (path / "weights").write_bytes(as_safetensors(told, original_weights(random, told)))
    else:
        path.write_bytes(as_safetensors(told, original_weights(random, told)))
    return "manifest", path.name
