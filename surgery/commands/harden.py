"""`surgery harden SOURCE --neurons N --prompts P -o EDIT`: train memories out of the weights."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from surgery.commands.output_option import add_output, check_output
from surgery.files import strict_json
from surgery.hardening.settings import DEVICE, HardenSettings
from surgery.options import add_options, settings_from

if TYPE_CHECKING:
    from surgery.hardening.harden import HardenResult

GATE_STATUS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery harden`; see its help."""
    parser.add_argument("source", metavar="SOURCE", help="the checkpoint: folder, single file or Hub id")
    add_output(parser, "EDIT", "folder of the edit, a new one")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="the memories' captions")
    parser.add_argument(
        "--neurons", metavar="FILE", help="neurons.json (default: none, every prompt counts as unresolved)"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="the memories' pictures, to attack for (default: SOURCE's own replicas)",
    )
    parser.add_argument("--data", metavar="DIR", help="pictures with images.csv that must stay as they are")
    parser.add_argument("--ordinary-prompts", metavar="FILE", help="ordinary prompts (default: the model's)")
    parser.add_argument("--similarity", metavar="NAME", help="measure (default: the one that fits the size)")
    parser.add_argument(
        "--keep-going", action="store_true", help="write the edit although the gate does not hold"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what it would cost, and stop")
    headings = add_options(parser, HardenSettings)
    headings[DEVICE].add_argument("--device", help="cpu, cuda, mps (default: an accelerator if there is one)")
    headings[DEVICE].add_argument("--dtype", help="float32 (default) or mixed-bfloat16")


def run(arguments: argparse.Namespace) -> int:
    """Harden, write the edit, print what the gate said; 0, or 3 where it does not hold."""
    check_output(arguments)
    settings = settings_from(HardenSettings, arguments)
    if arguments.dry_run:
        return _dry_run(arguments, settings)
    from surgery.hardening.harden import harden
    from surgery.processes import Processes

    with Processes.join() as processes:
        result = harden(
            arguments.source,
            arguments.prompts,
            arguments.output,
            neurons=arguments.neurons,
            images=arguments.images,
            data=arguments.data,
            ordinary_file=arguments.ordinary_prompts,
            settings=settings,
            similarity=arguments.similarity,
            keep_going=arguments.keep_going,
            device=processes.device(arguments.device),
            dtype=arguments.dtype,
            processes=processes,
            quiet=arguments.quiet,
        )
    if processes.is_main:
        _print_result(result, arguments.json)
    return 0 if result.holds else GATE_STATUS


def _print_result(result: HardenResult, as_json: bool) -> None:
    if as_json:
        print(strict_json(result.document))
    else:
        print(table(result.document))
        print(f"\n{_what_next(result)}")
    if not result.holds:
        print("surgery harden: the gate does not hold on any rung", file=sys.stderr)


def table(document: dict[str, Any]) -> str:
    """What the gate said of each rung, as text."""
    lines = [f"{'rung':<10} {'attack':<14} {'found':>6} {'highest':>8} {'controls':>9} {'change':>7}"]
    for rung in document["rungs"]:
        gate = rung["gate"]
        for name, scores in gate["scores"].items():
            lines.append(
                f"{rung['name']:<10} {name:<14} {len(gate['found']):>6} {max(scores):>8.2f} "
                f"{max(gate['controls'][name]):>9.2f} {gate['change']:>7.3f}"
            )
    last = document["rungs"][-1]
    words = "holds" if document["holds"] else "does not hold"
    lines.append(
        f"\nthe gate {words} on rung `{last['name']}` after {len(last['rounds'])} rounds; "
        f"{document['work']['sample_forwards']} UNet sample-forwards"
    )
    return "\n".join(lines)


def _what_next(result: HardenResult) -> str:
    if result.edit:
        return (
            f"written: {result.edit}\n"
            f"now: surgery patch SOURCE {result.edit} -o OUT, then surgery audit SOURCE OUT, which judges"
        )
    last = result.rungs[-1]
    words = "nothing was written (--keep-going writes the edit as it is)"
    if not last.rounds:
        return f"{words}; rows alone do not do: give --rungs zeroed,hardened"
    words += "; what was done is kept, and the same command with a larger --rounds N goes on"
    if not last.gate.found:
        words += ": no image was found, but too much else changed, which the next round repairs"
    return words


def _dry_run(arguments: argparse.Namespace, settings: HardenSettings) -> int:
    from surgery.hardening.estimate import estimate

    found = estimate(
        arguments.source,
        arguments.prompts,
        settings,
        arguments.device,
        arguments.dtype,
        arguments.ordinary_prompts,
    )
    if arguments.json:
        print(strict_json(found.as_json()))
    else:
        print(found.table())
    return 0
