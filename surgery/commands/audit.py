"""`surgery audit SOURCE PATCHED --prompts P -o DIR`: is the memory gone, also against an attacker?"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.auditing.settings import ATTACK, DEVICE, GATES, ORDINARY, AuditSettings
from surgery.commands.output_option import add_output, check_output
from surgery.files import strict_json
from surgery.options import add_options, settings_from
from surgery.text import printable

if TYPE_CHECKING:
    from surgery.auditing.estimate import Estimate

GATE_STATUS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery audit`; see its help."""
    parser.add_argument(
        "source", metavar="SOURCE", help="the checkpoint before: folder, single file or Hub id"
    )
    parser.add_argument("patched", metavar="PATCHED", help="the checkpoint after")
    add_output(parser, "DIR", "audit.json and audit.html")
    parser.add_argument("--prompts", required=True, metavar="FILE", help=".txt, .csv, .tsv, .jsonl, .parquet")
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="training images: images.csv (prompt,image[,mask]), or files named after prompts or numbers",
    )
    parser.add_argument("--neurons", metavar="FILE", help="neurons.json of the patch, for the neuron map")
    parser.add_argument("--include-private", action="store_true", help="show prompts and training images")
    parser.add_argument("--require", choices=GATES, help="exit 3 unless this gate holds for all prompts")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would cost and could say at most; write nothing"
    )
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
    headings[ATTACK].add_argument(
        "--twin", metavar="MODEL", help="a model like SOURCE that never saw the images: the floor of attacks"
    )
    headings[ATTACK].add_argument(
        "--base",
        metavar="MODEL",
        help="the public model that SOURCE was made from, for the attack graft (default: SOURCE)",
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
    check_output(arguments)
    if arguments.dry_run:
        return _dry_run(arguments)
    from surgery.auditing.audit import audit
    from surgery.processes import Processes

    with Processes.join() as processes:
        asked = {**_asked(arguments), "device": processes.device(arguments.device)}
        result = audit(**asked, output=arguments.output, processes=processes)
    failed = arguments.require is not None and not result.passes(arguments.require)
    if processes.is_main:
        if arguments.json:
            print(strict_json(result.document))
        else:
            print(table(result.document))
            print(f"\nwritten: {Path(arguments.output) / 'audit.html'}, audit.json")
        if failed:
            print(f"surgery audit: the gate `{arguments.require}` does not hold", file=sys.stderr)
    return GATE_STATUS if failed else 0


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an audit is asked, by the names of `AuditInputs` and `audit`."""
    from surgery.auditing.inputs import Extras

    named = (
        "source", "patched", "prompts", "images", "control_images", "ordinary_file", "twin", "base",
        "include_private", "max_forwards", "device", "dtype", "quiet",
    )  # fmt: skip
    return {
        **{name: getattr(arguments, name) for name in named},
        "settings": settings_from(AuditSettings, arguments),
        "extras": Extras(
            neurons=arguments.neurons,
            clip=arguments.clip,
            reference=arguments.fid_reference,
            features=arguments.fid_features,
            command=_command(arguments.words, arguments.include_private),
        ),
    }


def _dry_run(arguments: argparse.Namespace) -> int:
    """Print the estimate; nothing is written and no model is loaded."""
    from surgery.auditing.estimate import estimate_inputs
    from surgery.auditing.inputs import AuditInputs, output_folder

    if arguments.output is not None:
        output_folder(arguments.output)  # refuses one that the audit would refuse
    found = estimate_inputs(AuditInputs(**_asked(arguments)))
    print(strict_json(found.as_json()) if arguments.json else estimate_table(found))
    return 0


def estimate_table(found: Estimate) -> str:
    """An estimate as text: inputs, stages, and what could come out."""
    enough = f"{found.controls_needed} are the least, {found.controls_wanted} are wanted"
    lines = [
        f"prompts:  {found.prompts}, {found.with_image} with a training image",
        f"controls: {found.controls}; {enough}",
        "",
        f"{'stage':<22} {'images':>8} {'forwards each':>14} {'sample-forwards':>16}",
        *(
            f"{stage.name:<22} {stage.images:>8,} {stage.forwards_each:>14,} {stage.sample_forwards:>16,}"
            for stage in found.stages
        ),
        f"{'at most':<22} {'':>8} {'':>14} {found.sample_forwards:>16,}",
        "",
        f"at most: {found.at_most.phrase}",
    ]
    if found.why:
        lines.append(f"  ({found.why})")
    return "\n".join(lines)


def table(document: dict[str, Any]) -> str:
    """The verdicts as text: for each prompt one line per attack, then the checkpoint's.

    For each attack: PATCHED's score, the corrected p-value of its rank (small: hidden), and that of the test
    that a memory is left (small: not found).
    """
    width = 28
    lines = [
        f"{'prompt':<{width}} {'before':>6} {'after':>6}  {'attack':<14} {'score':>6} {'p hidden':>8} "
        f"{'p gone':>8}  verdict"
    ]
    for entry in document["prompts"]:
        name, replication = printable(entry.get("prompt", entry["id"])), entry["replication"]
        before, after = (
            f"{replication[side]['share']:.0%}" if replication else "-" for side in ("before", "after")
        )
        shown = name if len(name) <= width else name[: width - 1] + "…"
        attacks = [_cells(document, one, attack) for one, attack in entry["attacks"].items()]
        first, *others = attacks or [f"{'-':<14} {'-':>6} {'-':>8} {'-':>8}"]
        lines.append(f"{shown:<{width}} {before:>6} {after:>6}  {first}  {entry['phrase']}")
        lines += [f"{'':<{width + 16}}{cells}" for cells in others]
    lines += [f"\n{document['phrase']}: {document['reason']}", document["sentence"]]
    if document["ordinary"]:
        lines.append(document["ordinary"]["summary"])
    if not document["complete"]:
        lines.append("incomplete: the budget ended; run the same command again to go on")
    return "\n".join(lines)


def _cells(document: dict[str, Any], name: str, attack: dict[str, Any]) -> str:
    """What a verdict used of one attack on one prompt."""
    judged = attack["judged"] or {}
    score = attack["patched"]["score"] if attack["patched"] else None
    values = (
        (score, 6, ".2f"),
        (judged.get("corrected_p_value"), 8, ".3f"),
        (judged.get("removal_p_value"), 8, ".3f"),
    )
    numbers = " ".join(
        "-".rjust(wide) if one is None else f"{one:{wide}{form}}" for one, wide, form in values
    )
    return f"{name + ' ' + str(document['attacks'][name]['effort']):<14} {numbers}"


def _command(words: Sequence[str], include_private: bool) -> str:
    """The command line as it was typed; without private matter, paths are cut to their last part."""
    if not include_private:
        # `--option=path` keeps its option
        words = [re.sub(r"[^=]*/(?=[^/]*$)", "", word.rstrip("/")) for word in words]
    return shlex.join(["surgery", *words])
