"""The hard case: memory by duplication alone. `python benchmarks/natural.py [UNET_WEIGHTS]`.

The natural variant of the testbed memorizes the same pictures as the planted one, but nothing was set by
hand: the memory is wherever training put it. For each criterion this prints what localization finds, prompt
by prompt, and what is left when the neurons found are off: those of all localized prompts, and those of the
unresolved ones too. Pictures are drawn without guidance and at the pipeline's own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import generate, measure
from surgery.auditing.measures.utility import ordinary_change
from surgery.localization.calibration import calibrate
from surgery.localization.localize import localize
from surgery.localization.registry import CRITERIA
from surgery.localization.settings import LocalizeSettings
from surgery.measures.pictures import reconstruct
from surgery.measures.similarity import DEFAULT, named_similarity
from surgery.model.ablation import ablate
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.model.sketches import own_guidance
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import assemble_variant, read_ground_truth, read_ordinary_prompts

WEIGHTS = Path(__file__).parent.parent / "tests" / "data" / "natural.safetensors"
FIRST_SEED = 9200


def replication(
    model: LiveModel, memories: list, neurons: NeuronSet, seeds: int, quiet: bool
) -> dict[str, list[float]]:
    """Guidance ("1" and the pipeline's own) -> share of fresh seeds that replicate, per memory.

    Drawn with `neurons` off.
    """
    return {
        f"{guidance:g}": _shares(model, memories, neurons, Drawing(25, guidance, 32), seeds, quiet)
        for guidance in (1.0, own_guidance(model))
    }


def _shares(
    model: LiveModel, memories: list, neurons: NeuronSet, drawing: Drawing, seeds: int, quiet: bool
) -> list[float]:
    captions = [memory.caption for memory in memories]
    targets, similarity = reconstruct(model, training_images(memories)), named_similarity(DEFAULT)
    with ablate(model.denoiser, neurons):
        numbers = range(FIRST_SEED, FIRST_SEED + seeds)
        drawn = generate(model, captions, numbers, drawing, quiet=quiet)
    return [
        measure(pictures, target, similarity, torch.from_numpy(memory.mask())).share
        for pictures, target, memory in zip(drawn, targets, memories, strict=True)
    ]


def change(model: LiveModel, weights: str, neurons: NeuronSet, ordinary: list[str], quiet: bool) -> float:
    """The ordinary change of switching `neurons` off, measured against a second copy of the model."""
    other = load_pipeline(weights)
    with torch.no_grad():
        for layer, rows in neurons.items():
            other.denoiser.get_submodule(layer).weight[list(rows)] = 0
    return ordinary_change(model, other, ordinary[::16], quiet=quiet).total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="?", default=str(WEIGHTS))
    parser.add_argument("--strategy", default="fast")
    parser.add_argument("--criterion", nargs="+", default=list(CRITERIA))
    parser.add_argument("--limit", type=int, help="only the first N memories")
    parser.add_argument("--seeds", type=int, default=6, help="fresh seeds drawn per memory and guidance")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        location = str(assemble_variant(parsed.weights, Path(folder) / "natural"))
        model, memories = load_pipeline(location), read_ground_truth(location)[: parsed.limit]
        ordinary = read_ordinary_prompts(location)
        before = replication(model, memories, NeuronSet(), parsed.seeds, parsed.quiet)
        result: dict = {"before": before}
        for criterion in parsed.criterion:
            settings = LocalizeSettings(
                criterion=criterion, strategy=parsed.strategy, include_unresolved=True, confirm_pictures=0
            )
            found = localize(
                model,
                [memory.caption for memory in memories],
                settings=settings,
                calibration=calibrate(model, ordinary, settings),
                show_progress=not parsed.quiet,
            )
            localized = [record.refined for record in found.records if record.outcome == "localized"]
            sets = {"localized": NeuronSet().union(*localized), "with_unresolved": found.neurons}
            result[criterion] = {
                "prompts": [
                    {
                        "name": memory.name,
                        "outcome": record.outcome,
                        "initial": record.initial.count,
                        "refined": record.refined.count,
                        "score_before": record.score_before,
                        "score_after": record.score_after,
                    }
                    for memory, record in zip(memories, found.records, strict=True)
                ],
                "neurons": {name: neurons.count for name, neurons in sets.items()},
                "replication": {
                    name: replication(model, memories, neurons, parsed.seeds, parsed.quiet)
                    for name, neurons in sets.items()
                },
                "ordinary_change": {
                    name: change(model, location, neurons, ordinary, parsed.quiet)
                    for name, neurons in sets.items()
                },
            }
    print(json.dumps(result)) if parsed.json else print_tables(result)
    return 0


def print_tables(result: dict) -> None:
    """One table a criterion; replicas without guidance and at the pipeline's own."""
    before = result.pop("before")
    guidances = list(before)
    for criterion, part in result.items():
        print(f"\ncriterion {criterion}")
        heads = "".join(f"{f'at {guidance}':>9} {'after':>6} {'+unres.':>8}" for guidance in guidances)
        print(
            f"{'memory':<10} {'outcome':<14} {'initial':>7} {'refined':>7} {'score':>7} {'after':>7} {heads}"
        )
        sides = [part["replication"][name] for name in ("localized", "with_unresolved")]
        for index, row in enumerate(part["prompts"]):
            after = "" if row["score_after"] is None else f"{row['score_after']:.3f}"
            shares = "".join(
                f"{before[one][index]:>9.0%} {sides[0][one][index]:>6.0%} {sides[1][one][index]:>8.0%}"
                for one in guidances
            )
            print(
                f"{row['name']:<10} {row['outcome']:<14} {row['initial']:>7} {row['refined']:>7} "
                f"{row['score_before']:>7.3f} {after:>7} {shares}"
            )
        unresolved = sum(row["outcome"] == "unresolved" for row in part["prompts"])
        print(f"unresolved {unresolved} of {len(part['prompts'])}")
        for name in ("localized", "with_unresolved"):
            changes = "; ".join(
                f"guidance {one}: {_mean(before[one]):.0%} -> {_mean(part['replication'][name][one]):.0%}"
                for one in guidances
            )
            print(
                f"{name}: {part['neurons'][name]} neurons off, replication at {changes}; "
                f"ordinary change {part['ordinary_change'][name]:.2f}"
            )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
