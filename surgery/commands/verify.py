"""`surgery verify OUT`: is a folder what its manifest says, and with --source nothing but the edit?"""

from __future__ import annotations

import argparse

from surgery.files import strict_json
from surgery.text import printable

_SHOWN = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "out", metavar="OUT", help="folder that patch wrote, one file with its manifest, or cached Hub id"
    )
    parser.add_argument("--source", metavar="SOURCE", help="the checkpoint that was patched: prove the edit")
    parser.add_argument("--revision", help="of SOURCE, where it is a Hub id (default: main)")
    parser.add_argument("--plan", metavar="PLAN", help="neurons.json or edit: the manifest must be about it")
    parser.add_argument("--audit", metavar="FILE", help="audit.json: the manifest must say what it says")
    parser.add_argument("--public-key", metavar="PEM", help="check the signature with this key")


def run(arguments: argparse.Namespace) -> int:
    """Verify, print, and return 0, or 3 where anything is not as it should be."""
    from surgery.publish.verify import verify

    found = verify(
        arguments.out,
        source=arguments.source,
        revision=arguments.revision,
        plan=arguments.plan,
        audit=arguments.audit,
        public_key=arguments.public_key,
        quiet=arguments.quiet,
    )
    if arguments.json:
        print(strict_json(found.as_json()))
        return 0 if found.ok else 3
    for sentence in found.violations[:_SHOWN]:
        print(printable(f"  {sentence}"))
    if len(found.violations) > _SHOWN:
        print(f"  ... and {len(found.violations) - _SHOWN} more (--json lists all)")
    if not arguments.quiet:
        for note in found.notes:
            print(printable(f"note: {note}"))
    if found.ok:
        against = ", nothing but the edit differs from the source" if found.against_source else ""
        print(f"verified: {len(found.files)} files, {found.rows} rows zero in every copy{against}")
    else:
        print("NOT verified: do not publish it")
    return 0 if found.ok else 3
