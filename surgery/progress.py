"""Progress bars on stderr: shown on a terminal, silent in a pipe, in a log and with --quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_WORTH_A_BAR = 256 * 1024 * 1024  # less than this is done before a bar would appear


def bar(total: int, what: str, shown: bool, unit: str = "prompt") -> Any:
    """A tqdm bar that is disabled unless `shown` and stderr is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, disable=not (shown and sys.stderr.isatty()), leave=False)


class StageBars:
    """One bar per named stage, for functions that report (what, done, total)."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.what = ""
        self.now: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of stage `what` to `done` of `total`."""
        if what != self.what:
            self.close()
            self.what, self.now = what, bar(total, f"calibrate: {what}", self.shown)
        self.now.update(done - self.now.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the bar that is open, if any."""
        if self.now is not None:
            self.now.close()
        self.what, self.now = "", None


@contextmanager
def byte_progress(total: int, description: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A function to be called with numbers of bytes done.

    Args:
        total: the bytes of the whole work.
        description: what is being done.
        quiet: never show a bar.
    """
    if quiet or total < _WORTH_A_BAR or not sys.stderr.isatty():
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=description, unit="B", unit_scale=True, delay=2, leave=False) as progress:

        def advance(done: int) -> None:
            progress.update(done)

        yield advance
