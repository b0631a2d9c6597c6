"""`surgery calibrate MODEL -o FILE`: measure what ordinary prompts look like in a model."""

from __future__ import annotations

import argparse

from surgery import options
from surgery.commands import localization_options as shared
from surgery.files import strict_json
from surgery.localization.settings import (
    CALIBRATION,
    CONFIRMATION,
    SCORE_PROMPTS,
    SCORING,
    LocalizeSettings,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `surgery calibrate`; see its help."""
    shared.add_model_options(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="write the calibration here (safetensors)"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="ordinary captions (default: ordinary-prompts.txt beside the model, else the shipped ones)",
    )
    parser.add_argument("--column", help="caption column (default: caption, prompt or text)")
    parser.add_argument(
        "--score-prompts",
        type=int,
        default=SCORE_PROMPTS,
        metavar="N",
        help=f"prompts that run through the denoiser (default: {SCORE_PROMPTS})",
    )
    options.add_options(parser, LocalizeSettings, groups=[CALIBRATION, SCORING, CONFIRMATION])


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write the file, print the thresholds; always 0."""
    from surgery.files import check_writable
    from surgery.localization.calibration import calibrate
    from surgery.localization.calibration_file import write_calibration
    from surgery.ordinary import ordinary_prompts
    from surgery.progress import StageBars

    settings = options.settings_from(LocalizeSettings, arguments)
    output = check_writable(arguments.output)
    model = shared.load_from(arguments)
    captions, source = ordinary_prompts(model.source, arguments.prompts, arguments.column)
    bars = StageBars(not arguments.quiet)
    try:
        calibration = calibrate(
            model, captions, settings, arguments.score_prompts, source, settings.cutoff, progress=bars
        )
    finally:
        bars.close()
    write_calibration(calibration, output)
    thresholds = calibration.thresholds()
    if arguments.json:
        print(strict_json({"output": str(output), "thresholds": thresholds, **calibration.summary()}))
        return 0
    print(f"{'distribution':16}  {'mean':>8}  {'std':>8}  {'count':>6}")
    for name, scores in calibration.scores.items():
        print(f"{name:16}  {scores.mean:8.4f}  {scores.std:8.4f}  {scores.count:6}")
    for name, threshold in thresholds.items():
        print(f"threshold of {name}: {threshold:.4f}")
    print(f"\n{calibration.prompts} ordinary prompts ({source}) -> {output}")
    return 0
