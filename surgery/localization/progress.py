"""Progress bars on stderr: shown on a terminal, silent in a pipe, in a log and with --quiet."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(total: int, what: str, shown: bool, unit: str = "prompt") -> Any:
    """A tqdm bar that is disabled unless `shown` and stderr is a terminal."""
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
