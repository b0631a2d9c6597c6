"""`surgery audit SOURCE PATCHED --prompts P -o DIR`: is the memory gone, also against an attacker?"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgery.auditing.settings import ATTACK, DEVICE, GATES, ORDINARY, AuditSettings
from surgery.files import strict_json
from surgery.options import add_options, settings_from
from surgery.text import printable

GATE_STATUS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery audit`; see its help."""
    parser.add_argument(
        "source", metavar="SOURCE", help="the checkpoint before: folder, single file or Hub id"
    )
    parser.add_argument("patched", metavar="PATCHED", help="the checkpoint after")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="audit.json and audit.html")
    parser.add_argument("--prompts", required=True, metavar="FILE", help=".txt, .csv, .tsv, .jsonl, .parquet")
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="training images: images.csv (prompt,image[,mask]), or files named after prompts or numbers",
    )
    parser.add_argument("--neurons", metavar="FILE", help="neurons.json of the patch, for the neuron map")
    parser.add_argument("--include-private", action="store_true", help="show prompts and training images")
    parser.add_argument("--require", choices=GATES, help="exit 3 unless this gate holds for all prompts")
    parser.add_argument("--max-forwards", type=int, metavar="N", help="stop after N UNet sample-forwards")
    headings = add_options(parser, AuditSettings)
    headings[ORDINARY].add_argument(
        "--ordinary", dest="ordinary_file", metavar="FILE", help="the prompts (default: the model's or ours)"
    )
    headings[ATTACK].add_argument(
        "--control-images",
        metavar="DIR",
        help="pictures that no model saw (default: SOURCE makes them)",
    )
    headings[DEVICE].add_argument("--device", help="cpu, cuda, mps (default: an accelerator if there is one)")
    headings[DEVICE].add_argument(
        "--dtype", help="float32 (default on a CPU), float16, bfloat16, mixed-float16, mixed-bfloat16"
    )
    quality = parser.add_argument_group("quality (all weights are your own files)")
    quality.add_argument("--clip", metavar="DIR", help="folder of a CLIP model: CLIP score")
    quality.add_argument("--fid-reference", metavar="DIR", help="reference pictures: FID and KID")
    quality.add_argument("--fid-features", metavar="FILE", help="TorchScript feature extractor for them")


def run(arguments: argparse.Namespace) -> int:
    """Audit, write the two files, print the verdicts; 0, or 3 where the required gate does not hold."""
    from surgery.auditing.audit import audit
    from surgery.auditing.inputs import Extras

    result = audit(
        arguments.source,
        arguments.patched,
        arguments.prompts,
        images=arguments.images,
        control_images=arguments.control_images,
        ordinary_file=arguments.ordinary_file,
        output=arguments.output,
        settings=settings_from(AuditSettings, arguments),
        extras=Extras(
            neurons=arguments.neurons,
            clip=arguments.clip,
            reference=arguments.fid_reference,
            features=arguments.fid_features,
            command=_command(arguments.words, arguments.include_private),
        ),
        include_private=arguments.include_private,
        max_forwards=arguments.max_forwards,
        device=arguments.device,
        dtype=arguments.dtype,
        quiet=arguments.quiet,
    )
    if arguments.json:
        print(strict_json(result.document))
    else:
        print(table(result.document))
        print(f"\nwritten: {Path(arguments.output) / 'audit.html'}, audit.json")
    if arguments.require is not None and not result.passes(arguments.require):
        print(f"surgery audit: the gate `{arguments.require}` does not hold", file=sys.stderr)
        return GATE_STATUS
    return 0


def table(document: dict[str, Any]) -> str:
    """The verdicts as text: one line per prompt, then the checkpoint's."""
    width = 28
    lines = [f"{'prompt':<{width}} {'before':>7} {'after':>7} {'attack':>7} {'p':>7}  verdict"]
    for entry in document["prompts"]:
        name = printable(entry.get("prompt", entry["id"]))
        replication, attack = entry["replication"], entry["attack"] or {}
        before, after = (
            f"{replication[side]['share']:.0%}" if replication else "-" for side in ("before", "after")
        )
        score = f"{max(attack['patched']['score']):.2f}" if attack.get("patched") else "-"
        p_value = f"{attack['p_value']:.3f}" if attack.get("p_value") is not None else "-"
        shown = name if len(name) <= width else name[: width - 1] + "…"
        lines.append(f"{shown:<{width}} {before:>7} {after:>7} {score:>7} {p_value:>7}  {entry['verdict']}")
    lines.append(f"\n{document['verdict']}: {document['reason']}")
    if document["ordinary"]:
        lines.append(document["ordinary"]["summary"])
    if not document["complete"]:
        lines.append("incomplete: the budget ended; run the same command again to go on")
    return "\n".join(lines)


def _command(words: Sequence[str], include_private: bool) -> str:
    """The command line as it was typed; without private matter, paths are cut to their last part."""
    if not include_private:
        # `--option=path` keeps its option
        words = [re.sub(r"[^=]*/(?=[^/]*$)", "", word.rstrip("/")) for word in words]
    return shlex.join(["surgery", *words])
