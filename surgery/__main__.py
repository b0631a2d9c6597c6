"""`python -m surgery`: the same as the console script, for launchers that take a module."""

if __name__ == "__main__":
    try:
        from surgery.cli import entry
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    entry()
