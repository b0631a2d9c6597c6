"""The command line: parse, call, print. One module per command in `surgery.commands`, imported when called.

Exit status, everywhere: 0 done; 1 failed; 2 wrong use (a bad flag, recipe or file); 3 a gate said no
(memorization left, an unplanned difference, an unverified weight file).
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from surgery.errors import SurgeryError
from surgery.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

COMMANDS = {
    "demo": "the whole job on the embedded testbed: localize, patch, diff, and a picture of the difference",
    "calibrate": "measure what ordinary prompts look like in a model: the thresholds of localize and scan",
    "scan": "rank a large prompt corpus by how memorized each prompt looks",
    "apply": "the whole job as a recipe says: localize, patch, diff, audit, card, verify; resumable",
    "localize": "find the memorization neurons of a prompt corpus",
    "plan": "what a set of neurons would buy, prompt by prompt, and at which price; with a picture",
    "inspect": "say what a checkpoint is made of, and what patch would do with each file",
    "harden": "train memories out of the weights, where zeroed rows only hide them; makes an edit for patch",
    "patch": "zero neurons for good and write a new, standalone checkpoint",
    "audit": "measure, also under attack, whether a patched checkpoint still holds its memories",
    "diff": "compare two checkpoints row by row; with --plan, prove that nothing else changed",
    "card": "record the audit in the manifest, and write the model card of what will be published",
    "verify": "check a patched folder against its manifest; with --source, that nothing else changed",
    "upload": "say what would be published on the Hub; with --push, publish it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every `SurgeryError` becomes one line on stderr.

    Raises:
        SystemExit: from argparse, for `--help` (0) and for unknown options (2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end a command whose work is done.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    command = words[0] if words and words[0] in COMMANDS else ""
    try:
        return _flushed(_run(words), command)
    except SurgeryError as error:
        _complain(command, error)
        return error.exit_status
    except BrokenPipeError:
        # The reader of our output went away (`surgery diff A B | head`): not worth a traceback.
        _drop_output()
        return 1
    except OSError as error:
        # The machine's fault, wherever it showed: a full disk behind standard output, a folder that vanished.
        _complain(command, f"{error.filename or 'reading or writing failed'}: {error.strerror or error}")
        _drop_output()
        return 1
    except KeyboardInterrupt:
        _complain(command, "interrupted")
        return 130


def entry() -> None:
    """The console script `surgery`. Whatever is heavy is imported below here, so that Ctrl-C is answered."""
    try:
        _open_standard_streams()
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        status = _flushed(status)
    except KeyboardInterrupt:
        _complain("", "interrupted")
        status = 130
    sys.exit(status)


def _run(words: list[str]) -> int:
    parser = _parser(words)
    parsed = parser.parse_args(words)
    parsed.words = words  # what was really asked, for commands that record it: not always `sys.argv`
    if parsed.version:
        from importlib.metadata import version

        print(f"surgery {version('surgery')}")
        return 0
    if parsed.command is None:
        parser.print_help()
        return 2
    return int(importlib.import_module(f"surgery.commands.{parsed.command}").run(parsed))


def _parser(words: list[str]) -> argparse.ArgumentParser:
    from surgery.commands.parser import OneLineParser

    parser = OneLineParser(
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
    return parser


def _open_standard_streams() -> None:
    """Where a standard stream is closed, the next opened file would take its number, and get its messages."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _flushed(status: int, command: str = "") -> int:
    """The exit status once standard output is written: a full disk must not go unheard."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _complain(command, f"standard output: cannot be written ({error.strerror}); free some space")
        _drop_output()
        return 1
    return status


def _complain(command: str, message: object) -> None:
    """One line on stderr, whatever the message holds."""
    line = printable(" ".join(str(message).split()))
    with suppress(OSError):  # nobody can be told that stderr is full
        print(f"surgery {command}".rstrip() + f": {line}", file=sys.stderr)


def _drop_output() -> None:
    """Send what is still to be printed nowhere, so that the interpreter does not fail on it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
