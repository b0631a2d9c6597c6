"""`-o` of commands that a dry run needs no output for: wanted wherever something is written."""

from __future__ import annotations

import argparse

from surgery.errors import UsageError


def add_output(parser: argparse.ArgumentParser, metavar: str, meaning: str) -> None:
    """The option, beside a `--dry-run` that writes nothing."""
    parser.add_argument("-o", "--output", metavar=metavar, help=f"{meaning}; only --dry-run needs none")


def check_output(arguments: argparse.Namespace) -> None:
    """Refuse a command that would write and was not told where.

    Raises:
        UsageError: neither `-o` nor `--dry-run` was given.
    """
    if arguments.output is None and not arguments.dry_run:
        raise UsageError("-o", "is missing", "say where to write, or ask --dry-run for the cost alone")
