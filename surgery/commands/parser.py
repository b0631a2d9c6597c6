"""The parser of the command line: a wrong flag is said in one line, as every other wrong use is."""

from __future__ import annotations

import argparse
from typing import NoReturn

from surgery.text import printable


class OneLineParser(argparse.ArgumentParser):
    """argparse, but for its errors: the line alone, without the usage, which is longer than a screen here."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the flags, and end.

        Raises:
            SystemExit: always, with 2.
        """
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")
