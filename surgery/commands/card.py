"""`surgery card OUT`: record the audit in the manifest, and write the model card."""

from __future__ import annotations

import argparse

from surgery.files import strict_json
from surgery.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", help="folder that patch wrote")
    parser.add_argument(
        "--audit",
        metavar="FILE",
        help="audit.json (not a private one); without it the card says: not audited",
    )
    parser.add_argument(
        "--neurons",
        metavar="FILE",
        help="neurons.json that was patched: settings, seeds, thresholds and versions go into the manifest",
    )
    parser.add_argument(
        "--source", metavar="SOURCE", help="the checkpoint that was patched: its card is kept"
    )
    parser.add_argument("--revision", help="of SOURCE, where it is a Hub id (default: main)")
    parser.add_argument("--card", metavar="FILE", help="keep this card instead of the source's")
    parser.add_argument(
        "--base-model", metavar="ID", help="Hub id of the source, where the manifest has none"
    )
    parser.add_argument(
        "--accept-risk", metavar="REASON", help="why this is published although the verdict is not `removed`"
    )


def run(arguments: argparse.Namespace) -> int:
    """Record, write, print what the card says of the gate; return 0."""
    from surgery.publish.card import write_card
    from surgery.publish.stage import record_audit

    manifest = record_audit(
        arguments.out, arguments.audit, neurons=arguments.neurons, accept_risk=arguments.accept_risk
    )
    path = write_card(
        arguments.out,
        source=arguments.source,
        revision=arguments.revision,
        card=arguments.card,
        base_model=arguments.base_model,
    )
    published = manifest["published"]
    audit = published["audit"]
    phrase = audit["phrase"] if audit else None
    if arguments.json:
        print(strict_json({"card": str(path), "verdict": phrase, "gate": published["gate"]}))
        return 0
    print(printable(f"verdict: {phrase or 'not audited'}"))
    print(f"gate for publishing: {'open' if published['gate']['passed'] else 'shut'}")
    print(printable(f"card: {path}"))
    return 0
