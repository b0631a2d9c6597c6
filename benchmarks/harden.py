"""Is it gone? `python benchmarks/harden.py [--hardened EDIT] [--closed EDIT] [--json]`.

The testbed's memories under attack on several models, all memories of a model side by side:

1. zeroed: every planted row zeroed; 2. closed and 3. hardened: edits of `surgery harden`, or UNet weights;
4. twin: the same training without the planted images, the floor.

Printed for each model: every memory's score (90th percentile over pictures) under `embedding` (from the own
prompt) and `output` (over the empty and over an ordinary prompt) at several guidances, how many lie above the
twin's by .1 or more, what became of ordinary and of neighbor prompts, of the diversity of their pictures and
of the colors they name, and the cost against training the UNet anew.

`--natural` hardens the natural variant by its prompts alone and says how often they replicate afterward.
`--memories city poster --embedding 50 --output 50` gives a first look. `--make EDIT` hardens the testbed by
the default recipe, the gate asked once, and writes what `--hardened EDIT` judges (`--rung closed`: what
`--closed` judges). `--ablation` hardens anew, each time without one part of the recipe, and prints the same
figures: hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))
TWIN = ROOT / "tests" / "data" / "twin.safetensors"
NATURAL = ROOT / "tests" / "data" / "natural.safetensors"
NATURAL_SEEDS = range(9200, 9204)
MARGIN = 0.1  # above the twin's score
PICTURE_SEEDS = range(8_000_000, 8_000_008)
ATTACK_SEED = 9_000_000
STEPS = 20  # of the sampler
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


@dataclass(frozen=True)
class Testbed:
    """The planted model, what is attacked, and with what pictures are compared."""

    source: Any
    memories: list[Any]
    images: Any
    compared: Any
    masks: list[Any]
    ordinary: list[str]
    neighbors: list[str]


def load_testbed(names: Sequence[str] | None) -> Testbed:
    """The embedded testbed, of the memories named or of all."""
    import random

    import torch

    from surgery.hardening.surrogates import neighbors_of
    from surgery.measures.pictures import reconstruct
    from surgery.model.pipeline import load_pipeline
    from surgery.testbed.demo import training_images
    from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth, read_ordinary_prompts

    source = load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")
    known = read_ground_truth()
    memories = [one for one in known if names is None or one.name in names]
    if names is not None and len(memories) != len(set(names)):
        sys.exit(f"there are {', '.join(one.name for one in known)}")
    images = training_images(memories)
    ordinary, chance = read_ordinary_prompts(), random.Random(77)
    return Testbed(
        source,
        memories,
        images,
        reconstruct(source, images),
        [torch.from_numpy(one.mask()) if one.window else None for one in memories],
        ordinary[5::40][:16],
        [near for one in memories for near in neighbors_of(one.caption, ordinary, 1, chance)],
    )


def load_model(testbed: Testbed, name: str, given: str | None) -> tuple[Any, float | None]:
    """A model to be judged, and what it cost as a share of training anew (None where that is not known)."""
    import torch
    from safetensors.torch import load_file

    from surgery import patch
    from surgery.hardening.material import zero_rows
    from surgery.model.pipeline import load_pipeline
    from surgery.neurons import NeuronSet
    from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

    model = load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")
    if name == "zeroed":
        zero_rows(model, NeuronSet().union(*(one.neurons for one in read_ground_truth())))
        return model, 0.0
    assert given is not None
    if (Path(given) / "edit.json").is_file():
        with tempfile.TemporaryDirectory() as folder:
            patch(PLANTED_FOLDER, given, Path(folder) / "patched")
            return load_pipeline(Path(folder) / "patched", device="cpu", dtype="float32"), cost_share(given)
    with torch.no_grad():
        state = {key: value.float() for key, value in load_file(given).items()}
        model.denoiser.load_state_dict(state)
    return model, 1.0 if name == "twin" else None


def cost_share(edit: str, variant: str = "planted") -> float | None:
    """What hardening cost without its gate, as a share of the work of training the UNet anew.

    A sample forward counts 1; forward and back to what is learned in an attack 2; forward and back to the
    weights 3. Training is 3 for every sample of both phases that trained the UNet.
    """
    from surgery.testbed.schedule import Schedule

    record = Path(edit) / "hardening.json"
    if not record.is_file():
        return None
    document = json.loads(record.read_text())
    schedule = Schedule()
    anew = 3 * schedule.batch * (schedule.ordinary_steps + sum(schedule.variant_steps(variant)))
    spent = document["work"].get("gathered", 0)
    for rung in document["rungs"]:
        for one in rung["rounds"]:
            stages = one["stages"]
            spent += 2 * stages.get("attack", {}).get("sample_forwards", 0)
            spent += stages.get("blind", {}).get("sample_forwards", 0)
            spent += 3 * (
                stages["train"]["sample_forwards"] + stages.get("repair", {}).get("sample_forwards", 0)
            )
    return spent / anew


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


def colors_shown(model: Any) -> float:
    """Share of pictures of captions that name a color and a shape in which that color is seen."""
    from testbed import shows_color

    from surgery.auditing.drawing import Drawing
    from surgery.auditing.measures.replication import generate
    from surgery.testbed.pictures import COLORS, SHAPES

    asked = [(color, f"a {color} {shape}") for color, shape in zip(COLORS, SHAPES * 2, strict=False)]
    pictures = generate(model, [one for _, one in asked], range(4), Drawing(STEPS, 3.0, 32), quiet=True)
    shown = [
        shows_color(picture, color)
        for (color, _), drawn in zip(asked, pictures, strict=True)
        for picture in drawn
    ]
    return sum(shown) / len(shown)


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


def hardened(testbed: Testbed, rung: str, edit: Path, rounds: int, change: dict[str, Any]) -> Any:
    """Write the edit of one rung, the gate asked once, at the end; what `surgery.harden` returned."""
    from surgery import harden
    from surgery.hardening.settings import HardenSettings
    from surgery.neurons import NeuronSet
    from surgery.testbed.load import PLANTED_FOLDER

    captions = [memory.caption for memory in testbed.memories]
    settings = HardenSettings(rungs=(rung,), rounds=rounds, first_gate=rounds)
    return harden(
        str(PLANTED_FOLDER),
        captions,
        edit,
        neurons=NeuronSet().union(*(memory.neurons for memory in testbed.memories)),
        images=dict(zip(captions, testbed.images, strict=True)),
        masks={c: mask for c, mask in zip(captions, testbed.masks, strict=True) if mask is not None},
        settings=replace(settings, **change),
        similarity="edges",
        keep_going=True,
        device="cpu",
        quiet=False,
    )


def ablations(testbed: Testbed, parsed: argparse.Namespace) -> Iterator[Figures]:
    """The recipe hardened anew, whole and without one part at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, change) in enumerate(ABLATIONS.items()):
            if parsed.parts and name not in parsed.parts:
                continue
            result = hardened(testbed, "hardened", Path(folder) / str(number), parsed.rounds, change)
            yield replace(measure(testbed, "hardened", str(result.edit), parsed), model=name)


def natural(parsed: argparse.Namespace) -> dict[str, Any]:
    """The natural variant, hardened by its prompts, without neurons: what they draw before and after."""
    from surgery import harden, patch
    from surgery.auditing.drawing import Drawing
    from surgery.auditing.measures.replication import generate, measure
    from surgery.auditing.measures.utility import ordinary_change
    from surgery.hardening.settings import HardenSettings
    from surgery.measures.pictures import reconstruct
    from surgery.measures.similarity import named_similarity
    from surgery.model.pipeline import load_pipeline
    from surgery.testbed.demo import training_images
    from surgery.testbed.load import assemble_variant, read_ground_truth, read_ordinary_prompts

    with tempfile.TemporaryDirectory() as folder:
        source = assemble_variant(NATURAL, Path(folder) / "natural")
        memories, ordinary = read_ground_truth(source), read_ordinary_prompts(source)
        captions = [memory.caption for memory in memories]
        model = load_pipeline(source, device="cpu", dtype="float32")
        targets, similarity = reconstruct(model, training_images(memories)), named_similarity("edges")

        def replication(judged: Any, guidance: float) -> float:
            drawn = generate(judged, captions, NATURAL_SEEDS, Drawing(STEPS, guidance, 32), quiet=True)
            return sum(
                measure(pictures, target, similarity, torch_mask(memory)).share
                for pictures, target, memory in zip(drawn, targets, memories, strict=True)
            ) / len(memories)

        guidances = [one for one in parsed.guidance if one <= 3]
        before = {f"guidance {one:g}": replication(model, one) for one in guidances}
        edit = Path(parsed.edit) if parsed.edit else Path(folder) / "edit"
        result = harden(
            source, captions, edit,
            images=dict(zip(captions, training_images(memories), strict=True)),
            settings=HardenSettings(
                rungs=("hardened",), rounds=parsed.rounds, first_gate=parsed.rounds,
                gate_embedding=1, gate_output=1, gate_controls=1, gate_seeds=1,
            ),
            similarity="edges", keep_going=True, device="cpu",
        )  # fmt: skip
        patch(source, edit, Path(folder) / "patched")
        hardened = load_pipeline(Path(folder) / "patched", device="cpu", dtype="float32")
        return {
            "before": before,
            "after": {f"guidance {one:g}": replication(hardened, one) for one in guidances},
            "unresolved": sum(not one["resolved_by_rows"] for one in result.document["prompts"]),
            "leaking_neighbors": [one["leaking_neighbors"] for one in result.document["prompts"]],
            "ordinary_change": ordinary_change(
                model, hardened, ordinary[5::40][:16], range(4), 8, 32, quiet=True
            ).total,
            "cost_share": cost_share(str(edit), "natural"),
        }


def torch_mask(memory: Any) -> Any:
    """Where a memory's picture counts."""
    import torch

    return torch.from_numpy(memory.mask())


def arguments() -> argparse.Namespace:
    """The command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardened", help="edit of the rung hardened, or UNet weights")
    parser.add_argument("--closed", help="edit of the rung closed, or UNet weights")
    parser.add_argument("--twin", default=str(TWIN), help="UNet weights")
    parser.add_argument("--models", nargs="+", default=["zeroed", "closed", "hardened", "twin"])
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
        "--reuse",
        nargs="*",
        default=[],
        metavar="FILE",
        help="what --json printed of models before",
    )
    parser.add_argument("--ablation", action="store_true", help="harden anew without one part at a time")
    parser.add_argument("--parts", nargs="+", choices=ABLATIONS, help="of --ablation; default: all")
    parser.add_argument("--make", metavar="EDIT", help="only write the testbed's edit of --rung there")
    parser.add_argument("--rung", choices=("closed", "hardened"), default="hardened", help="of --make")
    parser.add_argument("--natural", action="store_true", help="harden the natural variant by its prompts")
    parser.add_argument("--edit", help="where --natural keeps its edit; by default it is thrown away")
    parser.add_argument("--rounds", type=int, default=4, help="of --make, --ablation and --natural")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def curve(text: str) -> tuple[int, ...]:
    """`50,200` -> (50, 200)."""
    return tuple(int(one) for one in text.split(",") if one)


def main() -> None:
    """Measure and print."""
    import torch

    torch.set_num_threads(1)
    parsed = arguments()
    if parsed.natural:
        print(json.dumps(natural(parsed), indent=1))
        return
    testbed = load_testbed(parsed.memories)
    if parsed.make:
        result = hardened(testbed, parsed.rung, Path(parsed.make), parsed.rounds, {})
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
    if parsed.ablation:
        found += ablations(testbed, parsed)
    if parsed.json:
        print(json.dumps({"memories": names, "models": [asdict(one) for one in found]}, indent=1))
    else:
        print_figures(testbed, found)


if __name__ == "__main__":
    main()
