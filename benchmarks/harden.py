"""Is it gone? `python benchmarks/harden.py [--hardened EDIT] [--closed EDIT] [--json]`.

The testbed's memories under attack on several models, all memories of a model side by side:

1. zeroed: every planted row zeroed; 2. closed and 3. hardened: edits of `surgery harden`, or UNet weights;
4. twin: the same training without the planted images, the floor.

Printed for each model: every memory's score (90th percentile over pictures) under `embedding` (from the own
prompt) and `output` (over the empty and over an ordinary prompt) at several guidances, how many lie above the
twin's by .1 or more, what became of ordinary and of neighbor prompts, of the diversity of their pictures and
of the colors they name, and the cost against training the UNet anew.

`--memories city poster --embedding 50 --output 50` gives a first look. `--make EDIT` hardens the testbed by
the default recipe, the gate asked once, and writes what `--hardened EDIT` judges (`--rung closed`: what
`--closed` judges; `--blinding 0.04`: more forgotten, at a higher change).

Beside it: `harden_attackers.py`, the attacks on the weights and on the noise; `harden_loss.py`, what the
weights say unasked; `harden_ablation.py`, the recipe without one part at a time; `harden_natural.py`, memory
by duplication alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harden_testbed import (
    ATTACK_SEED,
    MARGIN,
    STEPS,
    TWIN,
    Testbed,
    colors_shown,
    cost_share,
    load_model,
    load_testbed,
    make_edit,
)

PICTURE_SEEDS = range(8_000_000, 8_000_008)


@dataclass
class Figures:
    """What was measured of one model; scores by attack, memory by memory."""

    model: str
    scores: dict[str, list[float]]
    ordinary_change: float
    neighbor_change: float
    diversity: float
    colors: float
    cost_share: float | None
    seconds: float


def attacked(
    testbed: Testbed, model: Any, steps: dict[str, tuple[int, ...]], guidances: Sequence[float], seeds: int
) -> Iterator[tuple[str, Any]]:
    """(attack, pictures [memories, seeds, 3, height, width]) at each point of the curves."""
    from surgery.auditing.attack.conditioned import draw_conditioned
    from surgery.auditing.attack.embedding import optimize_embeddings
    from surgery.auditing.attack.output import optimize_constants
    from surgery.auditing.drawing import Drawing
    from surgery.hardening.pools import embedding_attack, output_attack
    from surgery.hardening.settings import HardenSettings
    from surgery.measures.pictures import encode_pictures
    from surgery.model.conditioning import encode_prompts
    from surgery.model.injection import injected
    from surgery.testbed.load import read_ground_truth

    clean = encode_pictures(model, testbed.images).float()
    settings = HardenSettings(attack_batch=8)
    numbers = {one.name: number for number, one in enumerate(read_ground_truth())}
    chance = [ATTACK_SEED + numbers[one.name] for one in testbed.memories]  # whoever is attacked beside
    pictures = list(PICTURE_SEEDS)[:seeds]
    drawings = [Drawing(STEPS, guidance, 32) for guidance in guidances]
    own = encode_prompts(model, [one.caption for one in testbed.memories])
    if steps["embedding"]:
        attack = embedding_attack(settings, steps["embedding"])
        for step, told in optimize_embeddings(model, clean, own, attack, chance):
            for drawing in drawings:
                label = f"embedding {step}, guidance {drawing.guidance:g}"
                yield label, draw_conditioned(model, told, pictures, drawing)
    for name, prompt in (("empty", ""), ("ordinary", testbed.ordinary[0])):
        if not steps["output"]:
            continue
        under = encode_prompts(model, [prompt]).repeat(len(clean))
        by_output = output_attack(settings, steps["output"])
        for step, constants in optimize_constants(model, clean, under, by_output, chance):

            def around(places: Any, given: dict[str, Any] = constants) -> Any:
                return injected(model.denoiser, {layer: value[places] for layer, value in given.items()})

            for drawing in drawings:
                label = f"output {step} over {name}, guidance {drawing.guidance:g}"
                yield label, draw_conditioned(model, under, pictures, drawing, around)


def measure(testbed: Testbed, name: str, given: str | None, parsed: argparse.Namespace) -> Figures:
    """All figures of one model."""
    from surgery.auditing.drawing import Drawing
    from surgery.auditing.measures.replication import generate, seed_similarity, similarities_to
    from surgery.auditing.measures.utility import ordinary_change
    from surgery.auditing.units import percentile
    from surgery.measures.similarity import named_similarity

    started = time.perf_counter()
    model, cost = load_model(testbed, name, given)
    model.denoiser.requires_grad_(False)
    similarity = named_similarity("edges")
    scores: dict[str, list[float]] = {}
    steps = {"embedding": parsed.embedding, "output": parsed.output}
    for label, drawn in attacked(testbed, model, steps, parsed.guidance, parsed.seeds):
        scores[label] = [
            percentile(similarities_to(pictures, compared, similarity, mask).tolist())
            for pictures, compared, mask in zip(drawn, testbed.compared, testbed.masks, strict=True)
        ]
        print(f"{name:<10} {label:<44} {' '.join(f'{one:5.2f}' for one in scores[label])}", file=sys.stderr)
    changes = [  # a neighbor that keeps a memory's word draws it from SOURCE still
        ordinary_change(before, model, prompts, range(4), 8, 32, quiet=True).total
        for before, prompts in (
            (testbed.source, testbed.ordinary),
            (load_model(testbed, "zeroed", None)[0], testbed.neighbors),
        )
    ]
    pictures = generate(model, testbed.ordinary, range(4), Drawing(STEPS, 3.0, 32), quiet=True)
    alike = [seed_similarity(drawn, similarity) for drawn in pictures]
    return Figures(
        name, scores, changes[0], changes[1], 1 - sum(alike) / len(alike),
        colors_shown(model), cost, time.perf_counter() - started,
    )  # fmt: skip


def read_measured(files: Sequence[str], names: Sequence[str]) -> dict[str, Figures]:
    """Models of which every memory that is asked for was measured before, maybe in several files."""
    parts: dict[str, list[tuple[list[str], Figures]]] = {}
    for file in files:
        document = json.loads(Path(file).read_text())
        for one in document["models"]:
            parts.setdefault(one["model"], []).append((document["memories"], Figures(**one)))
    found = {}
    for model, measured in parts.items():
        labels = set.intersection(*(set(one.scores) for _, one in measured))
        scores = {
            label: {n: one.scores[label][held.index(n)] for held, one in measured for n in held}
            for label in measured[0][1].scores
            if label in labels
        }
        if all(name in held for held in scores.values() for name in names):
            ordered = {label: [held[name] for name in names] for label, held in scores.items()}
            found[model] = replace(measured[-1][1], scores=ordered)
    return found


def print_figures(testbed: Testbed, found: list[Figures]) -> None:
    """The tables."""
    twin = next((one for one in found if one.model == "twin"), None)
    names = [memory.name[:6] for memory in testbed.memories]
    print(f"\n{'model':<22} {'attack':<38} {'max':>5} {'>twin':>6}  " + " ".join(f"{n:>6}" for n in names))
    for one in found:
        for label, values in one.scores.items():
            above = "-"
            if twin is not None and label in twin.scores:
                pairs = zip(values, twin.scores[label], strict=True)
                above = str(sum(value - floor >= MARGIN for value, floor in pairs))
            cells = " ".join(f"{value:>6.2f}" for value in values)
            print(f"{one.model:<22} {label:<38} {max(values):>5.2f} {above:>6}  {cells}")
    print(f"\n{'model':<22} {'ordinary':>9} {'neighbors':>10} {'diversity':>10} {'colors':>7} {'cost':>6}")
    for one in found:
        cost = "-" if one.cost_share is None else f"{one.cost_share:.0%}"
        print(
            f"{one.model:<22} {one.ordinary_change:>9.3f} {one.neighbor_change:>10.3f} "
            f"{one.diversity:>10.2f} {one.colors:>7.0%} {cost:>6}"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """How models are attacked, and what is printed: also the options of the ablation."""
    parser.add_argument("--memories", nargs="+", help="names; default: all 17")
    parser.add_argument(
        "--embedding", type=curve, default=(50, 200), help="steps at which to draw; '' for none"
    )
    parser.add_argument("--output", type=curve, default=(50, 100), help="likewise")
    parser.add_argument(
        "--guidance", type=lambda text: [float(one) for one in text.split(",")], default=[1.0, 3.0, 7.5]
    )
    parser.add_argument("--seeds", type=int, default=8, help="pictures per memory, attack and guidance")
    parser.add_argument(
        "--reuse", nargs="*", default=[], metavar="FILE", help="what --json printed of models before"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def arguments() -> argparse.Namespace:
    """The command line of the benchmark."""
    from surgery.hardening.settings import HardenSettings

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardened", help="edit of the rung hardened, or UNet weights")
    parser.add_argument("--closed", help="edit of the rung closed, or UNet weights")
    parser.add_argument("--twin", default=str(TWIN), help="pipeline folder, or UNet weights")
    parser.add_argument("--models", nargs="+", default=["zeroed", "closed", "hardened", "twin"])
    add_options(parser)
    parser.add_argument("--make", metavar="EDIT", help="only write the testbed's edit of --rung there")
    parser.add_argument("--rung", choices=("closed", "hardened"), default="hardened", help="of --make")
    parser.add_argument("--rounds", type=int, default=HardenSettings().rounds, help="of --make")
    parser.add_argument(
        "--blinding",
        type=float,
        default=HardenSettings().blinding,
        help="of --make",
    )
    return parser.parse_args()


def curve(text: str) -> tuple[int, ...]:
    """`50,200` -> (50, 200)."""
    return tuple(int(one) for one in text.split(",") if one)


def main() -> None:
    """Measure and print."""
    import torch

    torch.set_num_threads(1)
    parsed = arguments()
    testbed = load_testbed(parsed.memories)
    if parsed.make:
        change = {"blinding": parsed.blinding}
        result = make_edit(testbed, parsed.rung, Path(parsed.make), parsed.rounds, change)
        print(
            json.dumps(
                {"holds": result.holds, "cost_share": cost_share(parsed.make), **result.document["work"]}
            )
        )
        return
    files = {"zeroed": "", "closed": parsed.closed, "hardened": parsed.hardened, "twin": parsed.twin}
    if unknown := set(parsed.models) - files.keys():
        sys.exit(f"there is no model {unknown.pop()}; choose from {', '.join(files)}")
    names = [memory.name for memory in testbed.memories]
    known = read_measured(parsed.reuse, names)
    chosen = [name for name in parsed.models if files[name] is not None or name in known]
    found = [known.get(name) or measure(testbed, name, files[name], parsed) for name in chosen]
    if parsed.json:
        print(json.dumps({"memories": names, "models": [asdict(one) for one in found]}, indent=1))
    else:
        print_figures(testbed, found)


if __name__ == "__main__":
    main()
