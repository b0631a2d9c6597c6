"""Every error that `surgery` raises on purpose, with the exit status that a script sees.

Each error names the thing (which file, layer or option), the cause, and the way out; the command line
prints it as one line and exits with its status. Of what else escapes, an `OSError` is the machine's (one
line, status 1), anything more a defect of ours.
"""


class SurgeryError(Exception):
    """An operation failed for a reason that lies neither in the input nor in a gate (exit status 1).

    Args:
        thing: what the error is about: a path, a layer name, an option.
        cause: what is wrong with it.
        way_out: what the reader can do now; may be empty where nothing can be done.
    """

    exit_status = 1

    def __init__(self, thing: object, cause: str, way_out: str = "") -> None:
        self.thing = str(thing)
        self.cause = cause
        self.way_out = way_out
        super().__init__(self.thing, cause, way_out)

    def __str__(self) -> str:
        tail = f"; {self.way_out}" if self.way_out else ""
        return f"{self.thing}: {self.cause}{tail}"


class UsageError(SurgeryError):
    """The user's mistake: a bad option, recipe, corpus or checkpoint (exit status 2). Nothing was written."""

    exit_status = 2


class GateError(SurgeryError):
    """A gate said no: memorization left, an unplanned difference, an unverified weight file (status 3)."""

    exit_status = 3
