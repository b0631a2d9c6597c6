"""`surgery localize MODEL --prompts P -o neurons.json`: find the memorization neurons of a prompt corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery import options
from surgery.commands import localization_options as shared
from surgery.files import strict_json
from surgery.localization.settings import (
    CALIBRATION,
    CONFIRMATION,
    JOINT,
    METHOD,
    ONE_SET,
    SCORING,
    SECOND_LOOK,
    LocalizeSettings,
)

if TYPE_CHECKING:
    from surgery.localization.records import Localization, PromptRecord

ROWS_SHOWN = 60
NAMED = 10  # prompts, in a note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery localize`; see its help."""
    shared.add_model_options(parser)
    shared.add_corpus_options(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="write neurons.json here")
    parser.add_argument(
        "--journal", metavar="FILE", help="journal for resuming (default: OUTPUT.journal, removed at the end)"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="training images, named as for `surgery audit`: target-gone and the confirmation use them",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit 3 if a prompt stays unresolved or unconfirmed"
    )
    groups = options.add_options(
        parser,
        LocalizeSettings,
        groups=(CALIBRATION, METHOD, SCORING, SECOND_LOOK, CONFIRMATION, ONE_SET, JOINT),
    )
    shared.add_calibration_options(groups[CALIBRATION])
    one_set = groups[ONE_SET]
    one_set.add_argument(
        "--min-prompts", type=int, default=1, metavar="N", help="neurons found for at least N prompts"
    )
    one_set.add_argument("--most-frequent", type=int, metavar="N", help="of these, the N found most often")
    one_set.add_argument("--per-layer", action="store_true", help="N per layer instead of overall")


def run(arguments: argparse.Namespace) -> int:
    """Localize, write neurons.json, print a table; 0, or with --strict 3 where a memory is left."""
    from surgery.files import check_writable
    from surgery.localization.journal import remove_journals
    from surgery.localization.localize import localize
    from surgery.processes import Processes

    settings = options.settings_from(LocalizeSettings, arguments)
    output = check_writable(arguments.output)
    journal = check_writable(arguments.journal or f"{output}.journal")
    with Processes.join() as processes:
        corpus = shared.corpus_from(arguments)
        model = shared.load_from(arguments, processes.device(arguments.device))
        result = localize(
            model,
            corpus,
            settings=settings,
            calibration=arguments.calibration,
            ordinary=arguments.ordinary,
            minimum_prompts=arguments.min_prompts,
            most_frequent=arguments.most_frequent,
            per_layer=arguments.per_layer,
            images=arguments.images,
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
            **({"joint": evidence["joint"]} if "joint" in evidence else {}),
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
        if joint := evidence.get("joint"):
            print(_joint_line(joint, work))
    if not arguments.quiet:
        for note in _notes(result):
            print(f"note: {note}", file=sys.stderr)
    for warning in _warnings(result):
        print(f"WARNING: {warning}", file=sys.stderr)


def _joint_line(joint: Mapping[str, Any], work: Mapping[str, Any]) -> str:
    if not joint["judged"]:
        return "joint mask: no memory to judge"
    spent = joint["work"]["unet_sample_forwards"]
    return (
        f"joint mask: {joint['broken']} of {joint['judged']} memories broken by {joint['neurons']} neurons "
        f"(their own sets together: {joint['union']}), ordinary change {joint['change']:.3f} of a seed; "
        f"{joint['evaluations']} tests, {joint['attributions']} attributions, "
        f"{spent} sample-forwards (prompt by prompt {work['unet_sample_forwards'] - spent})"
    )


def _print_table(result: Localization) -> None:
    rows = [record for record in result.records if record.outcome != "not_memorized"]
    rows += [record for record in result.records if record.outcome == "not_memorized"]
    print(f"{'prompt':44}  {'outcome':13}  initial  refined  before   after   fresh  replicas")
    for record in rows[:ROWS_SHOWN]:
        confirmed = (record.details.get("confirmed") or {}).get("score")
        counts = [record.initial.count, record.refined.count] if record.outcome != "not_memorized" else "--"
        caption = shared.shortened(record.prompt, 44)
        print(
            f"{caption:44}  {record.outcome:13}  {counts[0]:>7}  {counts[1]:>7}  "
            f"{record.score_before:6.3f}  {_number(record.score_after)}  {_number(confirmed)}  "
            f"{_replicas(record)}"
        )
    if len(rows) > ROWS_SHOWN:
        print(f"... and {len(rows) - ROWS_SHOWN} more prompts, all in the file")


def _replicas(record: PromptRecord) -> str:
    """How many pictures, drawn with the final set off, are replicas."""
    pictures = (record.details.get("final") or {}).get("pictures")
    return f"{pictures['replicas']:>3} of {pictures['seeds']}" if pictures else "       -"


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"


def _notes(result: Localization) -> list[str]:
    from surgery.localization.ms_ssim import PUBLISHED_TAPS

    evidence = result.evidence
    notes = [
        f"calibrated on {evidence['calibration']['prompts']} prompts ({evidence['calibration']['source']})"
    ]
    reasons = evidence["reasons"]
    if sum(reasons.values()):
        notes.append(
            "passed the gate, but not memorized on a second look: "
            + "; ".join(
                f"{shared.shortened(record.prompt, 50)} ({record.details['reason']})"
                for record in [one for one in result.records if one.details.get("reason")][:NAMED]
            )
            + (f"; and {sum(reasons.values()) - NAMED} more" if sum(reasons.values()) > NAMED else "")
        )
    taps = evidence["window"]["taps"]
    if taps != PUBLISHED_TAPS:
        notes.append(
            f"the published {PUBLISHED_TAPS}-tap MS-SSIM window does not fit these latents: "
            f"{taps} taps are used"
        )
    fell_back = sum(bool(record.details.get("fell_back")) for record in result.records)
    if fell_back:
        notes.append(f"{fell_back} prompt(s) were not monotone and fell back to single tests")
    return notes


def _warnings(result: Localization) -> list[str]:
    from surgery.localization import registry

    evidence, warnings = result.evidence, []
    joint = [
        record for record in result.records if (record.details.get("joint") or {}).get("broken") is False
    ]
    if joint:
        warnings.append(
            f"{len(joint)} prompt(s) left by the joint mask: "
            + "; ".join(shared.shortened(record.prompt, 50) for record in joint[:5])
        )
    unresolved = [] if "joint" in evidence else result.with_outcome("unresolved")
    if unresolved:
        fate = "included" if evidence["settings"]["include_unresolved"] else "left out of the set"
        warnings.append(
            f"{len(unresolved)} prompt(s) UNRESOLVED: even the full initial set does not break their memory; "
            f"their neurons are {fate}: "
            + "; ".join(shared.shortened(record.prompt, 50) for record in unresolved[:5])
        )
    unconfirmed = [record for record in result.with_outcome("localized") if record.is_left]
    if unconfirmed:
        warnings.append(
            f"{len(unconfirmed)} prompt(s) NOT CONFIRMED on fresh seeds (scores or pictures): "
            + "; ".join(shared.shortened(record.prompt, 50) for record in unconfirmed[:5])
        )
    ordinary = {name: one["mean"] for name, one in evidence["calibration"]["scores"].items()}
    criterion = registry.criterion(evidence["settings"]["criterion"])
    if doubt := criterion.doubt(ordinary, evidence["thresholds"]["selection"]):
        warnings.append(doubt)
    return warnings
