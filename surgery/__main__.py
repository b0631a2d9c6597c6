"""`python -m surgery`: the same as the console script, for launchers that take a module."""

from surgery.cli import entry

if __name__ == "__main__":
    entry()
