"""Which part of the recipe matters? `python benchmarks/harden_ablation.py [--parts NAME ...] [--json]`.

Hardens the testbed anew, whole and without one part of the recipe at a time, and prints the same figures as
`benchmarks/harden.py`: hours on two cores. `--memories city poster --embedding 50 --output 50` gives a first
look, `--reuse FILE` takes the twin from what `benchmarks/harden.py --json` printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harden import Figures, add_options, measure, print_figures, read_measured
from harden_testbed import Testbed, load_testbed, make_edit

ABLATIONS: dict[str, dict[str, Any]] = {
    "whole recipe": {},
    "no repair": {"repair_steps": 0},
    "and training": {"further_steps": 60},
    "no attacks": {"trigger_rounds": 99},
    "no triggers": {"trigger_share": 0.0, "trigger_rounds": 0},
    "no output attack": {"output_steps": 0},
    "every timestep alike": {"noisy_weight": 0.0},
    "no neighbors": {"neighbors": 0},
    "training, no blinding": {"blinding": 0.0},
    "training, no blinding, no focus": {"blinding": 0.0, "focus": 0.0},
    "training, no blinding, no averaging": {"blinding": 0.0, "averaged": 0.0},
}


def ablations(testbed: Testbed, parsed: argparse.Namespace) -> Iterator[Figures]:
    """The recipe hardened anew, whole and without one part at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, change) in enumerate(ABLATIONS.items()):
            if parsed.parts and name not in parsed.parts:
                continue
            result = make_edit(testbed, "hardened", Path(folder) / str(number), parsed.rounds, change)
            yield replace(measure(testbed, "hardened", str(result.edit), parsed), model=name)


def arguments() -> argparse.Namespace:
    """The command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--parts", nargs="+", choices=ABLATIONS, help="default: all")
    parser.add_argument("--rounds", type=int, default=4, help="of hardening")
    return parser.parse_args()


def main() -> None:
    """Harden, measure and print."""
    import torch

    torch.set_num_threads(1)
    parsed = arguments()
    testbed = load_testbed(parsed.memories)
    names = [memory.name for memory in testbed.memories]
    found = [*read_measured(parsed.reuse, names).values(), *ablations(testbed, parsed)]
    if parsed.json:
        print(json.dumps({"memories": names, "models": [asdict(one) for one in found]}, indent=1))
    else:
        print_figures(testbed, found)


if __name__ == "__main__":
    main()
