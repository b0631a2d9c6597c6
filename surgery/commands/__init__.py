"""One module per command: `add_arguments(parser)` and `run(arguments) -> exit status`, nothing else.

A command is a thin skin over a documented function; heavy imports stand inside `run`.
`--json` and `--quiet` are added to every command by `surgery.cli`.
"""
