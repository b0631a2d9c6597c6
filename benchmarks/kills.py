"""Kill `patch` at random moments, many times: is the output ever anything but absent, old or whole?

    python benchmarks/kills.py --count 1000

Four kinds of run take turns: a folder and a single file, each new and over an earlier one (`--force`). Each
is a forked child, killed (SIGKILL) at a random moment of its run. After every kill the output must be absent,
the old one to the last byte, or the new one to the last byte; a manifest must describe the weights beside it;
and what other people have beside the output (some of it under names that look like ours) must not be touched.
Prints the counts; exit status 1 where anything else was seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from startup_speed import LAYER, build_small_folder

from surgery import patch

WEIGHTS = "diffusion_pytorch_model.safetensors"
OLD_ROWS, NEW_ROWS = {LAYER: [1]}, {LAYER: [3, 7]}
STRANGERS = ("ery-mine", "00000000")  # the ends of hidden names that look like ours
EXPECTED = {"absent", "old", "whole"}


def content(path: Path) -> dict[str, str]:
    """Every file at or below a path, or beside it with its name first -> sha256."""
    files = [path, path.with_name(f"{path.name}.surgery-manifest.json"), *path.rglob("*")]
    return {
        str(file.relative_to(path.parent)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    for file in (path, path.with_name(f"{path.name}.surgery-manifest.json")):
        file.unlink(missing_ok=True)


def strangers(place: Path, output: str) -> Callable[[], bool]:
    """Put things of other people beside an output; returns whether they are all as they were."""
    names = [f"{output}.backup", f".{output}.surgery-mine", f".{output}.surgery-00000000"]
    for name in names:
        (place / name / "content").mkdir(parents=True)
        (place / name / "content" / "letter.txt").write_text("dear all")
    (place / names[-1] / "surgery-staging").write_text("surgery is writing another here\n")
    before = [content(place / name) for name in names]
    return lambda: [content(place / name) for name in names] == before


class Bench:
    """One kind of run: its source and output, and the states that it may leave."""

    def __init__(self, scratch: Path, source: Path, name: str, force: bool) -> None:
        self.source, self.force = source, force
        place = scratch / f"{'force' if force else 'new'}-{name}"
        place.mkdir()
        self.output = place / name
        patch(source, NEW_ROWS, self.output)
        self.new = content(self.output)
        patch(source, OLD_ROWS, self.output, force=True)
        self.old = content(self.output)
        self.untouched = strangers(place, name)
        self.seconds = min(self.run_once(None)[1] for _ in range(5))

    def run_once(self, kill_after: float | None) -> tuple[str, float]:
        """Run, kill if asked to, and say what is there: absent, old, whole, or what is wrong."""
        if not self.force:
            remove(self.output)
        started = time.perf_counter()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                patch(self.source, NEW_ROWS, self.output, force=self.force)
                status = 0
            finally:
                os._exit(status)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        seconds = time.perf_counter() - started
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            return "failed", seconds
        return self.state(), seconds

    def state(self) -> str:
        found = content(self.output)
        manifest = self.output.name + ".surgery-manifest.json"
        without = [{name: value for name, value in one.items() if name != manifest} for one in self.states()]
        if not self.untouched():
            return "a foreign file was touched"
        if not found:
            return "absent"
        if found in self.states():
            return ("whole", "old")[self.states().index(found)]
        if found in without:  # a single file, killed before its manifest followed: the next run sets it right
            return ("whole", "old")[without.index(found)]
        return "in part"

    def states(self) -> list[dict[str, str]]:
        return [self.new, self.old]

    def reset(self) -> None:
        """A run that is not killed must set everything right; then the old output is there again."""
        patch(self.source, OLD_ROWS, self.output, force=True)
        assert content(self.output) == self.old, "a whole run did not set right what a killed one left"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="how many kills (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work (default: the system's folder for temporary files)")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    scratch = Path(tempfile.mkdtemp(prefix="surgery-kills-", dir=arguments.folder))
    started = time.perf_counter()
    counts: dict[str, Counter[str]] = {}
    interrupted = left_over = 0
    try:
        source = build_small_folder(scratch / "source")
        benches = {
            "folder": Bench(scratch, source, "out", False),
            "folder --force": Bench(scratch, source, "out", True),
            "file": Bench(scratch, source / WEIGHTS, "out.safetensors", False),
            "file --force": Bench(scratch, source / WEIGHTS, "out.safetensors", True),
        }
        for number in range(arguments.count):
            name, bench = list(benches.items())[number % len(benches)]
            if bench.force:
                bench.reset()
            state, _ = bench.run_once(bench.seconds * draw.uniform(draw.choice((0, 0.5)), 1.1))
            counts.setdefault(name, Counter())[state] += 1
            marked = [*bench.output.parent.glob(f".{bench.output.name}.surgery-*/surgery-staging")]
            interrupted += len(marked) > 1  # one of them is a stranger's
        for bench in benches.values():
            bench.reset()
            hidden = bench.output.parent.glob(".*.surgery-*")
            left_over += sum(path.name[-8:] not in STRANGERS for path in hidden)
    finally:
        shutil.rmtree(scratch)
    total: Counter[str] = sum(counts.values(), Counter())
    for name, found in counts.items():
        print(f"{name:<16} {json.dumps(dict(sorted(found.items())))}")
    seconds = time.perf_counter() - started
    print(f"{arguments.count} kills in {seconds:.0f} s, {interrupted} of them in the middle of the work")
    print(f"absent {total['absent']}, old {total['old']}, whole {total['whole']}, left over {left_over}")
    return 1 if set(total) - EXPECTED or left_over else 0


if __name__ == "__main__":
    sys.exit(main())
