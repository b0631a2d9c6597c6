"""A progress bar on stderr for work of more than two seconds; silent when stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WORTH_A_BAR = 256 * 1024 * 1024  # less than this is done before a bar would appear


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

    with tqdm(total=total, desc=description, unit="B", unit_scale=True, delay=2, leave=False) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        yield advance
