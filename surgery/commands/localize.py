"""`surgery localize MODEL --prompts P -o neurons.json`: find the memorization neurons of a prompt corpus."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from surgery.commands import localization_options as options
from surgery.files import strict_json

if TYPE_CHECKING:
    from surgery.localization.records import Localization

ROWS_SHOWN = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery localize`; see its help."""
    unset = options.UNSET
    options.add_model_options(parser)
    options.add_corpus_options(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="write neurons.json here")
    parser.add_argument(
        "--journal", metavar="FILE", help="journal for resuming (default: OUTPUT.journal, removed at the end)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit 3 if a prompt stays unresolved or unconfirmed"
    )
    options.add_calibration_options(parser)
    method = parser.add_argument_group("method (published defaults unless said otherwise)")
    method.add_argument(
        "--criterion", default=unset, help="seeds-diverge (default, ours) or noise-changed (published)"
    )
    method.add_argument("--strategy", default=unset, help="fast (default) or reference: the published loop")
    method.add_argument(
        "--blocks", nargs="+", default=unset, metavar="BLOCK", help="down, mid, up (default: down mid)"
    )
    method.add_argument(
        "--cutoff",
        type=float,
        default=unset,
        metavar="N",
        help="thresholds = ordinary mean + N standard deviations (default: 2; noise-changed: 1)",
    )
    for stage in ("gate", "selection", "refinement"):
        method.add_argument(f"--{stage}-threshold", type=float, default=unset, help="default: calibrated")
    method.add_argument(
        "--relative-refinement",
        type=float,
        default=unset,
        metavar="F",
        help="refinement threshold = F x initial set's score",
    )
    method.add_argument(
        "--theta-start", type=float, default=unset, help="first z-score threshold (default: 5)"
    )
    method.add_argument("--theta-step", type=float, default=unset, help="default: 0.25")
    method.add_argument("--theta-minimum", type=float, default=unset, help="default: 1")
    method.add_argument(
        "--top-k-start", type=int, default=unset, help="most active neurons per layer at first (default: 0)"
    )
    method.add_argument("--top-k-maximum", type=int, default=unset, help="default: 1280")
    method.add_argument(
        "--no-theta", dest="use_theta", action="store_false", default=unset, help="no selection by z-score"
    )
    method.add_argument(
        "--no-top-k", dest="use_top_k", action="store_false", default=unset, help="no most active neurons"
    )
    method.add_argument(
        "--scaling-factor",
        type=float,
        default=unset,
        help="ablated outputs are multiplied with it (default: 0)",
    )
    method.add_argument(
        "--confirm-seeds", type=int, default=unset, help="fresh seeds for the check afterwards (default: 10)"
    )
    method.add_argument("--confirm-seed", type=int, default=unset, help="the seed of these latents")
    method.add_argument(
        "--no-spot-checks",
        dest="spot_checks",
        action="store_false",
        default=unset,
        help="trust every inferred answer",
    )
    options.add_scoring_options(parser)
    corpus = parser.add_argument_group("from prompts to one set (default: union over the localized prompts)")
    corpus.add_argument(
        "--min-prompts", type=int, default=1, metavar="N", help="neurons found for at least N prompts"
    )
    corpus.add_argument("--most-frequent", type=int, metavar="N", help="of these, the N found most often")
    corpus.add_argument("--per-layer", action="store_true", help="N per layer instead of overall")
    corpus.add_argument(
        "--include-unresolved", action="store_true", default=unset, help="take in unresolved prompts too"
    )


def run(arguments: argparse.Namespace) -> int:
    """Localize, write neurons.json, print a table; 0, or with --strict 3 where a memory is left."""
    from surgery.files import check_writable
    from surgery.localization.journal import remove_journals
    from surgery.localization.localize import localize
    from surgery.localization.processes import Processes

    settings = options.settings_from(arguments)
    output = check_writable(arguments.output)
    journal = check_writable(arguments.journal or f"{output}.journal")
    with Processes.join() as processes:
        corpus = options.corpus_from(arguments)
        model = options.load_from(arguments, processes.device(arguments.device))
        result = localize(
            model,
            corpus,
            settings=settings,
            calibration=arguments.calibration,
            ordinary=arguments.ordinary,
            minimum_prompts=arguments.min_prompts,
            most_frequent=arguments.most_frequent,
            per_layer=arguments.per_layer,
            journal=journal,
            processes=processes,
            show_progress=not arguments.quiet,
        )
        if processes.is_main:
            result.write(output)
        processes.gather(None)  # no journal goes before the result is on the disk
        if arguments.journal is None:
            remove_journals(journal)
    if processes.is_main:
        _print_result(result, str(output), arguments)
    return 3 if arguments.strict and result.left() else 0


def _print_result(result: Localization, output: str, arguments: argparse.Namespace) -> None:
    evidence = result.evidence
    outcomes, work = evidence["outcomes"], evidence["work"]
    if arguments.json:
        summary = {
            "output": output,
            "neurons": result.neurons.count,
            "layers": result.neurons.as_json(),
            **{name: evidence[name] for name in ("outcomes", "thresholds", "corpus", "work")},
        }
        print(strict_json(summary))
    else:
        _print_table(result)
        print(
            f"\n{result.neurons.count} neurons in {len(result.neurons)} layers for "
            f"{outcomes['localized']} of {len(result.records)} prompts -> {output}\n"
            f"criterion {evidence['settings']['criterion']}, "
            f"threshold {evidence['thresholds']['selection']:.4f}; "
            f"{work['unet_sample_forwards']} UNet sample-forwards, {work['seconds']:.1f} s"
        )
    if not arguments.quiet:
        for note in _notes(result):
            print(f"note: {note}", file=sys.stderr)
    for warning in _warnings(result):
        print(f"WARNING: {warning}", file=sys.stderr)


def _print_table(result: Localization) -> None:
    rows = [record for record in result.records if record.outcome != "not_memorized"]
    rows += [record for record in result.records if record.outcome == "not_memorized"]
    print(f"{'prompt':44}  {'outcome':13}  initial  refined  before   after   fresh")
    for record in rows[:ROWS_SHOWN]:
        confirmed = (record.details.get("confirmed") or {}).get("score")
        counts = [record.initial.count, record.refined.count] if record.outcome != "not_memorized" else "--"
        caption = options.shortened(record.prompt, 44)
        print(
            f"{caption:44}  {record.outcome:13}  {counts[0]:>7}  {counts[1]:>7}  "
            f"{record.score_before:6.3f}  {_number(record.score_after)}  {_number(confirmed)}"
        )
    if len(rows) > ROWS_SHOWN:
        print(f"... and {len(rows) - ROWS_SHOWN} more prompts, all in the file")


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"


def _notes(result: Localization) -> list[str]:
    evidence = result.evidence
    notes = [
        f"calibrated on {evidence['calibration']['prompts']} prompts ({evidence['calibration']['source']})"
    ]
    taps = evidence["window"]["taps"]
    if taps != 11:
        notes.append(f"the published 11-tap MS-SSIM window does not fit these latents: {taps} taps are used")
    fell_back = sum(bool(record.details.get("fell_back")) for record in result.records)
    if fell_back:
        notes.append(f"{fell_back} prompt(s) were not monotone and fell back to single tests")
    return notes


def _warnings(result: Localization) -> list[str]:
    evidence, warnings = result.evidence, []
    unresolved = result.with_outcome("unresolved")
    if unresolved:
        fate = "included" if evidence["settings"]["include_unresolved"] else "left out of the set"
        warnings.append(
            f"{len(unresolved)} prompt(s) UNRESOLVED: even the full initial set does not break their memory; "
            f"their neurons are {fate}: "
            + "; ".join(options.shortened(record.prompt, 50) for record in unresolved[:5])
        )
    unconfirmed = [record for record in result.with_outcome("localized") if record.is_left]
    if unconfirmed:
        warnings.append(
            f"{len(unconfirmed)} prompt(s) NOT CONFIRMED on fresh seeds: "
            + "; ".join(options.shortened(record.prompt, 50) for record in unconfirmed[:5])
        )
    floor = evidence["calibration"]["scores"]["same_seed"]["mean"]
    if evidence["settings"]["criterion"] == "noise-changed" and floor > evidence["thresholds"]["selection"]:
        warnings.append(
            f"two unrelated ordinary prompts at one seed score {floor:.3f} here, above the threshold "
            f"{evidence['thresholds']['selection']:.3f}: noise-changed cannot be reached; use seeds-diverge"
        )
    return warnings
