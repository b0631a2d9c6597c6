"""`surgery inspect CHECKPOINT`: what it is made of, and what `patch` would do with each file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from surgery.files import strict_json
from surgery.text import printable

if TYPE_CHECKING:
    from surgery.checkpoint.inspect import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="diffusers folder, single file, or cached Hub id"
    )
    parser.add_argument("--revision", help="of a Hub id: branch, tag or commit (default: main)")


def run(arguments: argparse.Namespace) -> int:
    """Inspect, print, return 0."""
    from surgery.checkpoint.inspect import inspect_checkpoint

    found = inspect_checkpoint(arguments.checkpoint, revision=arguments.revision)
    if not arguments.quiet:
        for warning in found.warnings:
            print(f"surgery inspect: warning: {printable(warning)}", file=sys.stderr)
    print(strict_json(found.as_json()) if arguments.json else as_table(found))
    return 0


def as_table(found: Inspection) -> str:
    """The inspection for people: copies, value layers, files, and what `patch` would say."""
    revision = f" at {found.source.revision}" if found.source.revision else ""
    lines = [f"{found.source.name}{revision}: {found.family}, {found.kind}", "", "copies of the denoiser:"]
    for copy in found.copies:
        rows = sum(layer.rows for layer in copy.layers.values())
        lines.append(
            f"  {copy.label}: {'/'.join(copy.dtypes)}, {copy.naming} names, {len(copy.layers)} value layers, "
            f"{rows} rows, {len(copy.files)} file{'s' if len(copy.files) > 1 else ''}"
        )
    if not found.copies:
        lines.append("  none that can be read here")
    lines += _layer_lines(found)
    lines += ["", "files (what patch would do):"]
    width = max((len(file.path) for file in found.files), default=0)
    for file in found.files:
        note = f"{file.role}: {file.reason}" if file.reason else file.role
        lines.append(f"  {file.action:<9}  {file.path:<{width}}  {file.bytes / 1e6:>10.2f} MB  {note}")
    accepted = "patch would accept it, unless it finds a second copy of the rows (only headers are read here)"
    lines += ["", f"patch would refuse: {found.refusal}" if found.refusal else accepted]
    return "\n".join(map(printable, lines))


def _layer_lines(found: Inspection) -> list[str]:
    if not found.copies:
        return []
    layers = found.copies[0].layers
    width = max(map(len, layers), default=0)
    lines = ["", f"value layers of {found.copies[0].label} (rows x columns):"]
    for name, layer in layers.items():
        lines.append(f"  {name:<{width}}  {layer.rows} x {layer.columns}{' + bias' if layer.bias else ''}")
    return lines
