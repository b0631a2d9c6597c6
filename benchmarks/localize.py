"""Both strategies on one model, prompt by prompt, and the cost of one evaluation at Stable Diffusion's size.

    python benchmarks/localize.py [--model FOLDER] [--prompts FILE] [--criterion NAME ...] [--json FILE]
    python benchmarks/localize.py --natural [--include-unresolved] [--threshold SCORE ...] [--limit N]
    python benchmarks/localize.py --sd-size

The first form (default: the embedded testbed and its planted captions) localizes the corpus with
`--strategy reference` and with `--strategy fast` from one calibration and prints, per prompt, whether the
refined sets agree, UNet sample-forwards, evaluations per (neurons kept + 1) and seconds; then the totals. The
confirmation on fresh seeds is no part of the published loop, so both run without it.

`--natural` takes the testbed's natural variant, whose memories are spread over many neurons, as in a model of
the wild. Unresolved prompts are refined by the reference loop only, unless `--include-unresolved` lets the
fast strategy do so too; without it only their initial sets are compared. Totals are given for all prompts
and for the localized ones. `--threshold` sets the score to reach by hand: each value breaks other prompts at
another step, so that the two strategies can be compared on many more searches than the calibrated one gives.

The last form builds a random-weight UNet and text encoder of SD1.5's size (860 million parameters) and
prints seconds per sample-forward of a bare UNet call, of one evaluation, and of `scan`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sd_size import sd_size

from surgery.corpus import as_corpus
from surgery.localization import registry
from surgery.localization.calibration import Calibration, calibrate
from surgery.localization.localize import localize
from surgery.localization.one_prompt import Thresholds
from surgery.localization.records import PromptRecord
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.ordinary import ordinary_prompts

NATURAL = Path(__file__).resolve().parent.parent / "tests" / "data" / "natural.safetensors"
HEADER = (
    f"{'prompt':34} {'outcome':13} steps initial kept same "
    "reference  fast ratio  floor reference   fast  (sample-forwards; evaluations / (kept + 1); seconds)"
)


def compare(
    model: LiveModel, prompts: list[str], settings: LocalizeSettings, calibration: Calibration
) -> dict[str, Any]:
    """Both strategies over the prompts; prints the table and returns the figures."""
    found: dict[str, list[PromptRecord]] = {}
    for strategy in ("reference", "fast"):
        chosen = replace(settings, strategy=strategy)
        found[strategy] = localize(model, prompts, settings=chosen, calibration=calibration).records
    threshold = Thresholds.of(settings, calibration).selection
    captions = f"{calibration.prompts} ordinary captions"
    print(f"\ncriterion {settings.criterion}, threshold {threshold:.4f}, {captions}")
    print(HEADER)
    floors = []
    for slow, fast in zip(found["reference"], found["fast"], strict=True):
        forwards = [record.details["work"]["unet_sample_forwards"] for record in (slow, fast)]
        seconds = [record.details["work"]["seconds"] for record in (slow, fast)]
        outcome = fast.outcome if fast.outcome == slow.outcome else f"{slow.outcome}/{fast.outcome}"
        floor = fast.details["evaluations"] / (fast.refined.count + 1)
        if fast.outcome == "localized":
            floors.append(floor)
        same = "yes" if same_sets(slow, fast) else "NO"
        steps, initial, ratio = slow.details.get("steps", 0), slow.initial.count, forwards[0] / forwards[1]
        print(
            f"{fast.prompt[:34]:34} {outcome:13} {steps:5} {initial:7} {fast.refined.count:4} {same:4} "
            f"{forwards[0]:9} {forwards[1]:5} {ratio:5.1f} "
            f"{floor:6.2f} {seconds[0]:9.2f} {seconds[1]:6.2f}"
        )
    return {"criterion": settings.criterion, "threshold": round(threshold, 4), **totals(found, floors)}


def runs(model: LiveModel, arguments: argparse.Namespace) -> Iterator[tuple[LocalizeSettings, Calibration]]:
    """The settings of each table, with their calibration."""
    captions, source = ordinary_prompts(model.source)
    for criterion in arguments.criterion:
        settings = LocalizeSettings(
            criterion=criterion, confirm_seeds=0, include_unresolved=arguments.include_unresolved
        )
        calibration = calibrate(model, captions, settings, source=source)
        for threshold in arguments.threshold or [None]:
            yield (
                replace(settings, selection_threshold=threshold, refinement_threshold=threshold),
                calibration,
            )


def totals(found: dict[str, list[PromptRecord]], floors: list[float]) -> dict[str, Any]:
    """Sums over the prompts that passed the gate, and over the localized ones, printed and returned."""
    pairs = [
        pair
        for pair in zip(found["reference"], found["fast"], strict=True)
        if pair[1].outcome != "not_memorized"
    ]
    localized = [pair for pair in pairs if pair[1].outcome == "localized"]
    median = statistics.median(floors) if floors else None
    figures: dict[str, Any] = {
        "all": summed(pairs),
        "localized": summed(localized),
        "median_evaluations_per_kept_plus_one": median,
    }
    for name, some in (("all", pairs), ("localized", localized)):
        if some and (name == "all" or len(some) < len(pairs)):
            sums = figures[name]
            print(
                f"{name}: {sums['identical']} of {len(some)} sets identical, {sums['fell_back']} fell back; "
                f"sample-forwards {sums['forwards'][0]} / {sums['forwards'][1]} = "
                f"{sums['forwards'][0] / sums['forwards'][1]:.1f}; "
                f"seconds {sums['seconds'][0]} / {sums['seconds'][1]} = "
                f"{sums['seconds'][0] / sums['seconds'][1]:.1f}"
            )
    print(f"median evaluations per (kept + 1): {median}")
    return figures


def same_sets(slow: PromptRecord, fast: PromptRecord) -> bool:
    """Whether both strategies found the same; initial sets are what counts where one did not refine."""
    if fast.details.get("search") == "not refined":
        return slow.initial == fast.initial and slow.outcome == fast.outcome
    return (slow.initial, slow.refined, slow.outcome) == (fast.initial, fast.refined, fast.outcome)


def summed(pairs: list[tuple[PromptRecord, PromptRecord]]) -> dict[str, Any]:
    """(reference, fast) records -> how many sets agree, and the work of each strategy."""
    work = [[record.details["work"] for record in pair] for pair in pairs]
    return {
        "prompts": len(pairs),
        "identical": sum(same_sets(slow, fast) for slow, fast in pairs),
        "fell_back": sum(bool(fast.details.get("fell_back")) for _, fast in pairs),
        "forwards": [sum(pair[side]["unet_sample_forwards"] for pair in work) for side in (0, 1)],
        "seconds": [round(sum(pair[side]["seconds"] for pair in work), 2) for side in (0, 1)],
    }


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FOLDER", help="default: the embedded testbed")
    parser.add_argument("--natural", action="store_true", help="the testbed's natural variant")
    parser.add_argument("--include-unresolved", action="store_true", help="refine unresolved prompts too")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument("--prompts", metavar="FILE", help="default: the testbed's planted captions")
    parser.add_argument("--criterion", nargs="+", default=list(registry.CRITERIA))
    parser.add_argument("--threshold", type=float, nargs="+", metavar="SCORE", help="default: calibrated")
    parser.add_argument("--device", help="cpu, cuda or mps")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--sd-size", action="store_true", help="time evaluations at the size of Stable Diffusion"
    )
    parser.add_argument("--sd-prompts", type=int, default=2)
    parser.add_argument("--sd-seeds", type=int, default=3, help="scan stops after two where it may")
    parser.add_argument("--sd-rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.sd_size:
        figures: Any = sd_size(arguments.sd_prompts, arguments.sd_seeds, arguments.sd_rounds)
    else:
        from surgery.testbed.load import PLANTED_FOLDER, assemble_variant, read_ground_truth

        folder = arguments.model or PLANTED_FOLDER
        with tempfile.TemporaryDirectory() as temporary:
            if arguments.natural:
                folder = assemble_variant(NATURAL, Path(temporary) / "natural")
            prompts = as_corpus(
                arguments.prompts or [memory.caption for memory in read_ground_truth(folder)]
            ).prompts[: arguments.limit]
            model = load_pipeline(folder, arguments.device)
            # Inside: the calibration reads the ordinary captions that lie beside the model.
            figures = [
                compare(model, prompts, settings, calibration)
                for settings, calibration in runs(model, arguments)
            ]
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
