"""Loading through diffusers and transformers: their errors become ours, their logs and bars stay silent."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from surgery.errors import SurgeryError, UsageError

ABOUT_CUT_PROMPTS = (
    "The following part of your input was truncated",  # diffusers, whenever a prompt is encoded
    "Token indices sequence length is longer",  # transformers
)


@contextmanager
def library_errors(source: str) -> Iterator[None]:
    """Turn whatever a library raises inside into one `UsageError` that names the source."""
    try:
        yield
    except SurgeryError:
        raise
    except Exception as error:
        # The libraries raise nearly every class there is for a broken checkpoint; all of them mean the same.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        cause = lines[0] if lines else type(error).__name__
        raise UsageError(
            source, f"cannot be loaded as a pipeline ({cause})", "check the path and its files"
        ) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No log line and no progress bar of diffusers and transformers inside."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = [(library, library.get_verbosity()) for library in (diffusers_logging, transformers_logging)]
    bars = [
        (library, library.is_progress_bar_enabled()) for library in (diffusers_logging, transformers_logging)
    ]
    try:
        for library, _ in levels:
            library.set_verbosity_error()
            library.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # names of options that changed between releases
            yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)
        for library, enabled in bars:
            if enabled:
                library.enable_progress_bar()


@contextmanager
def silent_about_cut_prompts() -> Iterator[None]:
    """Inside, the libraries do not say for every batch that a prompt was cut; all else they may say.

    Their handlers are filtered, once: encoding itself costs no more than before.
    """
    handlers = [*logging.getLogger("diffusers").handlers, *logging.getLogger("transformers").handlers]
    for handler in handlers:
        handler.addFilter(_is_not_about_cut_prompts)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_not_about_cut_prompts)


def _is_not_about_cut_prompts(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(ABOUT_CUT_PROMPTS)
