"""Options that `localize`, `scan` and `calibrate` share. Not a command."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from surgery.text import printable

if TYPE_CHECKING:
    from surgery.corpus import PromptCorpus


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


def add_calibration_options(group: argparse._ArgumentGroup) -> None:
    """Where the thresholds come from."""
    group.add_argument("--calibration", metavar="FILE", help="made by `surgery calibrate` for this model")
    group.add_argument(
        "--ordinary",
        metavar="FILE",
        help="ordinary captions to calibrate on now (default: ordinary-prompts.txt beside the model, else "
        "those that ship with surgery)",
    )


def load_from(arguments: argparse.Namespace, device: str | None = None) -> Any:
    """The live model that the options name."""
    from surgery.model.pipeline import load_pipeline

    return load_pipeline(
        arguments.model, device or arguments.device, arguments.dtype, arguments.revision, arguments.variant
    )


def corpus_from(arguments: argparse.Namespace) -> PromptCorpus:
    """The corpus that the options name; broken rows are reported on stderr with their lines."""
    from surgery.corpus import as_corpus, read_prompts
    from surgery.errors import UsageError

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
