"""`surgery scan MODEL --prompts P`: rank a large corpus by how memorized each prompt looks, in one pass."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from surgery import options
from surgery.commands import localization_options as shared
from surgery.files import strict_json
from surgery.localization import registry
from surgery.localization.discovery.settings import SEQUENTIAL, TRAINING_IMAGES, ScanSettings
from surgery.localization.settings import CALIBRATION, SCORING, LocalizeSettings

if TYPE_CHECKING:
    from surgery.corpus import PromptCorpus
    from surgery.localization.discovery.ranking import Scan


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
        help="what scores a prompt (localize judges again, by its own criterion): "
        f"{', '.join(registry.detector_places())} "
        f"(default: {registry.DEFAULT_DETECTOR})",
    )
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="default: calibrated")
    parser.add_argument(
        "--journal", metavar="FILE", help="journal for resuming (default: OUTPUT.journal, removed at the end)"
    )
    parser.add_argument("--top", type=int, default=20, metavar="N", help="rows of the table (default: 20)")
    shared.add_calibration_options(parser.add_argument_group(CALIBRATION))
    options.add_options(parser, LocalizeSettings, groups=[SCORING])
    headings = options.add_options(parser, ScanSettings, groups=[SEQUENTIAL, TRAINING_IMAGES])
    headings[TRAINING_IMAGES].add_argument(
        "--images",
        metavar="DIR",
        help="start from near-duplicates among these: images.csv (prompt,image), files named after prompts "
        "or numbers, or NAME.txt beside each",
    )


def run(arguments: argparse.Namespace) -> int:
    """Scan, write the ranking, print its top; always 0."""
    from surgery.files import check_writable, write_atomically
    from surgery.localization.journal import remove_journals
    from surgery.localization.scan import scan
    from surgery.processes import Processes

    settings = options.settings_from(LocalizeSettings, arguments, confirm_seeds=0)
    search = options.settings_from(ScanSettings, arguments)
    output = check_writable(arguments.output) if arguments.output else None
    # Without a file to write there is no place for a journal that anybody would look for.
    named = arguments.journal or (f"{output}.journal" if output is not None else None)
    journal = check_writable(named) if named else None
    with Processes.join() as processes:
        corpus = shared.corpus_from(arguments)
        result = scan(
            shared.load_from(arguments, processes.device(arguments.device)),
            corpus,
            detector=arguments.detector,
            threshold=arguments.threshold,
            settings=settings,
            search=search,
            calibration=arguments.calibration,
            ordinary=arguments.ordinary,
            images=arguments.images,
            journal=journal,
            processes=processes,
            show_progress=not arguments.quiet,
        )
        if output is not None and processes.is_main:
            rows = [record for record in result.records if record.memorized or not arguments.only_memorized]
            text = "".join(json.dumps(record.as_json(), ensure_ascii=False) + "\n" for record in rows)
            write_atomically(output, text.encode())
        processes.gather(None)  # no journal goes before the result is on the disk
        if journal is not None and arguments.journal is None:
            remove_journals(journal)
    if processes.is_main:
        _print_result(result, corpus, search, arguments)
    return 0


def _print_result(
    result: Scan, corpus: PromptCorpus, search: ScanSettings, arguments: argparse.Namespace
) -> None:
    memorized = sum(record.memorized for record in result.records)
    if arguments.json:
        facts = {
            "detector": result.detector,
            "threshold": float(f"{result.threshold:.6g}"),
            "prompts": len(result.records),
            "memorized": memorized,
            "share": round(result.share, 6),
            "seeds_per_prompt": round(result.seeds_per_prompt, 4),
            "test": result.test.as_json(),
            "images": None if result.copies is None else result.copies.counts(),
            "corpus": corpus.counts(),
            "work": result.work.as_json(),
            "top": [record.as_json() for record in result.records[: arguments.top]],
        }
        print(strict_json(facts))
        return
    print(f"{'score':>8}  {'':9}  {'seeds':>5}  prompt")
    for record in result.records[: arguments.top]:
        mark = "memorized" if record.memorized else ""
        copies = f"  ({record.copies} near-duplicates)" if record.copies else ""
        caption = shared.shortened(record.prompt, 80)
        print(f"{record.score:8.4f}  {mark:9}  {record.seeds:5}  {caption}{copies}")
    print(
        f"\n{memorized} of {len(result.records)} prompts ({100 * result.share:.1f} %) above "
        f"{result.threshold:.4f} ({result.detector}); {result.seeds_per_prompt:.2f} seeds a prompt; "
        f"{result.work.unet_sample_forwards} UNet sample-forwards, {result.work.seconds:.1f} s"
    )
    if not arguments.quiet:
        for note in _notes(result, search, arguments):
            print(f"note: {note}", file=sys.stderr)


def _notes(result: Scan, search: ScanSettings, arguments: argparse.Namespace) -> list[str]:
    notes = []
    if result.test.stops:
        bounds = ", ".join(f"{stop.bound:.4f} after {stop.seeds} seeds" for stop in result.test.stops)
        notes.append(
            f"ordinary prompts are done at {bounds}; one that scores the threshold is stopped early with "
            f"chance {result.test.miss:g} at most"
        )
    elif search.sequential:
        notes.append("all seeds of every prompt: the calibration says nothing of fewer")
    if result.copies is not None:
        found = result.copies
        notes.append(
            f"{found.duplicated} of {found.pictures} images have a near-duplicate; "
            f"{len(found.of_caption)} captions of theirs come first"
        )
    if arguments.output is None:
        notes.append("nothing was written; give -o FILE to keep the ranking")
    return notes
