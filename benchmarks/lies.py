"""Lie about patched checkpoints, thousands of times: does `surgery diff --plan` believe any of it?

    python benchmarks/lies.py                  # two thousand lies about every layout and of every kind
    python benchmarks/lies.py --count 200 --layout plain --layout ckpt
    python benchmarks/lies.py --kind "a row restored in one copy" --count 500 --seed 7

Each lie changes one thing in what `surgery.patch` wrote (`tests/checkpoint/lies.py`), so that it is not what
`patch` would have written; the proof must answer no, or refuse. Printed: each lie that is believed, at once;
a table of kinds and layouts with the number of lies told (where there are any, of those believed too); honest
outputs and harmless changes that were not believed; the total. The exit status is 1 when a lie was believed
or the truth was not.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "checkpoint"))
lies: Any = importlib.import_module("lies")  # the tests' module, not this script of the same name

Cell = tuple[str, str]  # kind, layout


def tell_many(
    layouts: Sequence[Any], kinds: Sequence[str], count: int, seed: int, scratch: Path
) -> tuple[Counter[Cell], dict[Cell, list[str]]]:
    """Tell `count` lies, every kind about every layout in turn.

    Returns:
        how many were told of each kind about each layout, and the seeds of those that were believed, or
        at which the proof broke down.
    """
    pairs = [(kind, layout) for kind in kinds for layout in layouts if lies.LIES[kind].applies(layout)]
    random.Random(seed).shuffle(pairs)
    told: Counter[Cell] = Counter()
    believed: dict[Cell, list[str]] = {}
    impossible: set[Cell] = set()
    bar = tqdm(total=count, desc="lies", unit="lie", disable=not sys.stderr.isatty())
    drawn = 0
    while told.total() < count and len(impossible) < len(pairs):
        kind, layout = pairs[drawn % len(pairs)]
        lie_seed = f"{seed} {drawn // len(pairs)} {kind} {layout.name}"
        drawn += 1
        if (kind, layout.name) in impossible:
            continue
        found = lies.tell(kind, layout, lie_seed, scratch)
        if found is None:
            if not told[kind, layout.name]:
                impossible.add((kind, layout.name))
            continue
        told[kind, layout.name] += 1
        try:
            is_believed = lies.answer(layout, found[0].path)[0]
        except Exception as error:  # a traceback is no answer; tell the other lies all the same
            is_believed = True
            lie_seed = f"{lie_seed}; {type(error).__name__}: {error}"
        if is_believed:
            believed.setdefault((kind, layout.name), []).append(lie_seed)
            tqdm.write(
                f"believed: {kind}, of {layout.name} (seed {lie_seed!r})"
            )  # at once: it may be stopped
            sys.stdout.flush()
        bar.update()
    bar.close()
    return told, believed


def truths(layouts: Sequence[Any], scratch: Path) -> list[str]:
    """What is true and was not believed: honest outputs, and those with a harmless change."""
    wrong = []
    for layout in layouts:
        yes, said = lies.answer(layout, layout.patched)
        if not yes:
            wrong.append(f"{layout.name}, as it was written: {said[:1]}")
        for name, change in lies.HARMLESS.items():
            try:
                path = change(lies.fresh(layout, scratch))
            except lies.NotHere:
                continue
            yes, said = lies.answer(layout, path)
            if not yes:
                wrong.append(f"{layout.name}, {name}: {said[:1]}")
    return wrong


def table(
    kinds: Sequence[str], names: Sequence[str], told: Counter[Cell], believed: dict[Cell, list[str]]
) -> str:
    """One line for each kind, one column for each layout: told, or believed/told."""
    shown = [[kind, *(_cell((kind, name), told, believed) for name in names)] for kind in kinds]
    shown.insert(0, ["kind", *names])
    widths = [max(len(line[place]) for line in shown) for place in range(len(names) + 1)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if not place else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in shown
    )


def _cell(cell: Cell, told: Counter[Cell], believed: dict[Cell, list[str]]) -> str:
    if not told[cell]:
        return "-"
    return f"{len(believed[cell])}!/{told[cell]}" if cell in believed else str(told[cell])


def main() -> int:
    """Parse, lie, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="how many lies to tell")
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other lies")
    parser.add_argument("--layout", action="append", choices=lies.LAYOUTS, help="only this one; repeatable")
    parser.add_argument("--kind", action="append", choices=list(lies.LIES), help="only this one; repeatable")
    parser.add_argument(
        "--list", action="store_true", help="only list the kinds, with why some were believed"
    )
    parsed = parser.parse_args()
    if parsed.list:
        for kind, entry in lies.LIES.items():
            print(f"{kind}  [{entry.once_believed}]" if entry.once_believed else kind)
        return 0
    torch.set_num_threads(1)
    names = parsed.layout or list(lies.LAYOUTS)
    kinds = parsed.kind or list(lies.LIES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        layouts = [lies.make_layout(name, folder / name.replace(" ", "-")) for name in names]
        wrong = truths(layouts, folder / "scratch")
        told, believed = tell_many(layouts, kinds, parsed.count, parsed.seed, folder / "scratch")
    print(table(kinds, names, told, believed))
    for line in wrong:
        print(f"true, but not believed: {line}")
    total = sum(map(len, believed.values()))
    print(f"{told.total()} lies of {len({kind for kind, _ in told})} kinds told, {total} believed")
    return 1 if believed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
