"""`surgery scan MODEL --prompts P`: rank a large corpus by how memorized each prompt looks, in one pass."""

from __future__ import annotations

import argparse
import json
import sys

from surgery import options
from surgery.commands import localization_options as shared
from surgery.files import strict_json
from surgery.localization import registry
from surgery.localization.settings import CALIBRATION, SCORING, LocalizeSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery scan`; see its help."""
    shared.add_model_options(parser)
    shared.add_corpus_options(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the ranking here, one JSON object a line"
    )
    parser.add_argument(
        "--only-memorized", action="store_true", help="write only prompts above the threshold"
    )
    parser.add_argument(
        "--detector",
        default=registry.DEFAULT_DETECTOR,
        metavar="NAME",
        help=f"what scores a prompt: {', '.join(registry.detector_places())} "
        f"(default: {registry.DEFAULT_DETECTOR})",
    )
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="default: calibrated")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="rows of the table (default: 20)")
    shared.add_calibration_options(parser.add_argument_group(CALIBRATION))
    options.add_options(parser, LocalizeSettings, groups=[SCORING])


def run(arguments: argparse.Namespace) -> int:
    """Scan, write the ranking, print its top; always 0."""
    from surgery.files import check_writable, write_atomically
    from surgery.localization.scan import scan

    settings = options.settings_from(LocalizeSettings, arguments, confirm_seeds=0)
    output = check_writable(arguments.output) if arguments.output else None
    corpus = shared.corpus_from(arguments)
    result = scan(
        shared.load_from(arguments),
        corpus,
        detector=arguments.detector,
        threshold=arguments.threshold,
        settings=settings,
        calibration=arguments.calibration,
        ordinary=arguments.ordinary,
        show_progress=not arguments.quiet,
    )
    memorized = [record for record in result.records if record.memorized]
    if output is not None:
        rows = memorized if arguments.only_memorized else result.records
        text = "".join(json.dumps(record.as_json(), ensure_ascii=False) + "\n" for record in rows)
        write_atomically(output, text.encode())
    if arguments.json:
        facts = {
            "detector": result.detector,
            "threshold": float(f"{result.threshold:.6g}"),
            "prompts": len(result.records),
            "memorized": len(memorized),
            "share": round(result.share, 6),
            "corpus": corpus.counts(),
            "work": result.work.as_json(),
            "top": [record.as_json() for record in result.records[: arguments.top]],
        }
        print(strict_json(facts))
        return 0
    print(f"{'score':>8}  {'':9}  prompt")
    for record in result.records[: arguments.top]:
        mark = "memorized" if record.memorized else ""
        print(f"{record.score:8.4f}  {mark:9}  {shared.shortened(record.prompt, 80)}")
    print(
        f"\n{len(memorized)} of {len(result.records)} prompts ({100 * result.share:.1f} %) above "
        f"{result.threshold:.4f} ({result.detector}); "
        f"{result.work.unet_sample_forwards} UNet sample-forwards, {result.work.seconds:.1f} s"
    )
    if not arguments.quiet and output is None:
        print("note: nothing was written; give -o FILE to keep the ranking", file=sys.stderr)
    return 0
