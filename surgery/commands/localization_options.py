"""Options that `localize`, `scan` and `calibrate` share. Not a command."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from surgery.text import printable

if TYPE_CHECKING:
    from surgery.corpus import PromptCorpus
    from surgery.localization.settings import LocalizeSettings

# The defaults stand in LocalizeSettings alone: options left out are not passed on.
UNSET: Any = argparse.SUPPRESS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """MODEL and how to load it."""
    parser.add_argument("model", metavar="MODEL", help="diffusers folder, single checkpoint file, or Hub id")
    loading = parser.add_argument_group("loading")
    loading.add_argument("--device", help="cpu, cuda, mps, ... (default: an accelerator where there is one)")
    loading.add_argument(
        "--dtype", help="float32 (default on a CPU), float16, bfloat16, mixed-float16, mixed-bfloat16"
    )
    loading.add_argument("--revision", help="Hub revision")
    loading.add_argument("--variant", help="weight-file variant, such as fp16")


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """Which prompts to read."""
    parser.add_argument(
        "--prompts", metavar="FILE", help=".txt, .csv, .tsv, .jsonl or .parquet file of captions"
    )
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="one caption; may be repeated")
    parser.add_argument("--column", help="caption column (default: caption, prompt or text)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N different captions")


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Where the thresholds come from."""
    group = parser.add_argument_group("calibration")
    group.add_argument("--calibration", metavar="FILE", help="made by `surgery calibrate` for this model")
    group.add_argument(
        "--ordinary",
        metavar="FILE",
        help="ordinary captions to calibrate on now (default: ordinary-prompts.txt beside the model, else "
        "those that ship with surgery)",
    )


def add_scoring_options(parser: argparse.ArgumentParser) -> Any:
    """How noise differences are made; `calibrate` must use the same as `localize` and `scan`."""
    group = parser.add_argument_group("scoring")
    group.add_argument("--seeds", type=int, default=UNSET, help="latents per prompt (default: 10)")
    group.add_argument("--seed", type=int, default=UNSET, help="seed of these latents (default: 0)")
    group.add_argument(
        "--guidance", type=float, default=UNSET, help="guidance scale in scores (default: none)"
    )
    group.add_argument("--inference-steps", type=int, default=UNSET, help="scheduler steps (default: 50)")
    group.add_argument("--step-index", type=int, default=UNSET, help="which timestep is scored (default: 1)")
    group.add_argument(
        "--key-layers",
        dest="projection",
        action="store_const",
        const="key",
        default=UNSET,
        help="use key layers",
    )
    group.add_argument(
        "--batch-size", type=int, default=UNSET, help="most samples in a UNet call (default: 32)"
    )
    return group


def settings_from(arguments: argparse.Namespace, **fixed: Any) -> LocalizeSettings:
    """The settings that the given options describe; `fixed` for some, defaults for all others."""
    from dataclasses import fields

    from surgery.localization.settings import LocalizeSettings

    names = {field.name for field in fields(LocalizeSettings)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return LocalizeSettings(**{**given, **fixed})


def load_from(arguments: argparse.Namespace, device: str | None = None) -> Any:
    """The live model that the options name."""
    from surgery.model.pipeline import load_pipeline

    return load_pipeline(
        arguments.model, device or arguments.device, arguments.dtype, arguments.revision, arguments.variant
    )


def corpus_from(arguments: argparse.Namespace) -> PromptCorpus:
    """The corpus that the options name; broken rows are reported on stderr with their lines."""
    from surgery.corpus import read_prompts
    from surgery.errors import UsageError
    from surgery.localization.localize import as_corpus

    if (arguments.prompts is None) == (arguments.prompt is None):
        raise UsageError("--prompts", "give either a file of prompts or --prompt TEXT", "one of the two")
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError("--limit", f"{arguments.limit} is less than 1", "give at least 1")
    if arguments.prompts is None:
        return as_corpus(arguments.prompt[: arguments.limit])
    corpus = read_prompts(arguments.prompts, arguments.column, arguments.limit)
    for line, cause in corpus.broken:
        print(printable(f"{corpus.source}, line {line}: skipped: {cause}"), file=sys.stderr)
    if corpus.broken_count > len(corpus.broken):
        print(f"{corpus.source}: {corpus.broken_count} rows skipped in all", file=sys.stderr)
    return corpus


def shortened(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= width else text[: width - 1] + "…"
