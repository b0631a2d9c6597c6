"""The command line: parse, call, print. One module per command in `surgery.commands`, imported when called.

Exit status, everywhere: 0 done; 1 failed; 2 wrong use (a bad flag, recipe or file); 3 a gate said no
(memorization left, an unplanned difference, an unverified weight file).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from surgery.errors import SurgeryError

COMMANDS = {
    "demo": "the whole job on the embedded testbed: localize, patch, diff, and a picture of the difference",
    "calibrate": "measure what ordinary prompts look like in a model: the thresholds of localize and scan",
    "scan": "rank a large prompt corpus by how memorized each prompt looks",
    "apply": "localize, patch and diff as a recipe says",
    "localize": "find the memorization neurons of a prompt corpus",
    "inspect": "say what a checkpoint is made of, and what patch would do with each file",
    "patch": "zero neurons for good and write a new, standalone checkpoint",
    "audit": "measure, also under attack, whether a patched checkpoint still holds its memories",
    "diff": "compare two checkpoints row by row; with --plan, prove that nothing else changed",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every `SurgeryError` becomes one line on stderr.

    Raises:
        SystemExit: from argparse, for `--help` (0) and for unknown options (2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="surgery",
        description="Find memorized training images in a text-to-image diffusion model, cut them out of the "
        "checkpoint, and prove it.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong use, 3 a gate said no.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        # Only the called command's module is imported: `surgery --help` must not pay for any other.
        called = bool(words) and words[0] == name
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if called:
            importlib.import_module(f"surgery.commands.{name}").add_arguments(subparser)
            subparser.add_argument("--json", action="store_true", help="print JSON instead of a table")
            subparser.add_argument("--quiet", action="store_true", help="no progress bars, no notes")
    parsed = parser.parse_args(words)
    parsed.words = words  # what was really asked, for commands that record it: not always `sys.argv`
    if parsed.version:
        from importlib.metadata import version

        print(f"surgery {version('surgery')}")
        return 0
    if parsed.command is None:
        parser.print_help()
        return 2
    try:
        return int(importlib.import_module(f"surgery.commands.{parsed.command}").run(parsed))
    except SurgeryError as error:
        print(f"surgery {parsed.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader of our output went away (`surgery diff A B | head`): not worth a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"surgery {parsed.command}: interrupted", file=sys.stderr)
        return 130


def entry() -> None:
    """The console script `surgery`."""
    sys.exit(main())
