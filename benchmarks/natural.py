"""The hard case: memory by duplication alone. `python benchmarks/natural.py [UNET_WEIGHTS]`.

The natural variant of the testbed memorizes the same pictures as the planted one, but nothing was set by
hand: the memory is wherever training put it. For both criteria this prints what localization finds, prompt by
prompt, and what is left when the neurons found are off: those of all localized prompts, and those of the
unresolved ones too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.pictures import reconstruct
from surgery.auditing.measures.replication import generate, measure
from surgery.auditing.measures.similarity import DEFAULT, named_similarity
from surgery.auditing.measures.utility import ordinary_change
from surgery.localization.calibration import calibrate
from surgery.localization.localize import localize
from surgery.localization.settings import LocalizeSettings
from surgery.model.ablation import ablate
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import assemble_variant, read_ground_truth, read_ordinary_prompts

WEIGHTS = Path(__file__).parent.parent / "tests" / "data" / "natural.safetensors"
SEEDS = range(9200, 9206)
DRAWING = Drawing(steps=25, guidance=1.0, batch_size=32)


def replication(model: LiveModel, memories: list, neurons: NeuronSet, quiet: bool) -> list[float]:
    """Share of fresh seeds that replicate, per memory, with `neurons` off."""
    captions = [memory.caption for memory in memories]
    targets, similarity = reconstruct(model, training_images(memories)), named_similarity(DEFAULT)
    with ablate(model.denoiser, neurons):
        drawn = generate(model, captions, SEEDS, DRAWING, quiet=quiet)
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
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        location = str(assemble_variant(parsed.weights, Path(folder) / "natural"))
        model, memories = load_pipeline(location), read_ground_truth(location)
        ordinary = read_ordinary_prompts(location)
        before = replication(model, memories, NeuronSet(), parsed.quiet)
        result: dict = {"before": dict(zip([m.name for m in memories], before, strict=True))}
        for criterion in ("seeds-diverge", "noise-changed"):
            settings = LocalizeSettings(criterion=criterion, strategy=parsed.strategy)
            found = localize(
                model,
                [memory.caption for memory in memories],
                settings=settings,
                calibration=calibrate(model, ordinary, settings),
                show_progress=not parsed.quiet,
            )
            everything = found.neurons.union(*(record.refined for record in found.records))
            sets = {"localized": found.neurons, "with_unresolved": everything}
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
                    name: replication(model, memories, neurons, parsed.quiet)
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
    """One table a criterion."""
    before = list(result["before"].values())
    for criterion in ("seeds-diverge", "noise-changed"):
        part = result[criterion]
        print(f"\ncriterion {criterion}")
        print(
            f"{'memory':<10} {'outcome':<14} {'initial':>7} {'refined':>7} {'score':>7} {'after':>7} "
            f"{'replicas':>9} {'after':>6} {'+unresolved':>12}"
        )
        for index, row in enumerate(part["prompts"]):
            after = "" if row["score_after"] is None else f"{row['score_after']:.3f}"
            shares = [part["replication"][name][index] for name in ("localized", "with_unresolved")]
            print(
                f"{row['name']:<10} {row['outcome']:<14} {row['initial']:>7} {row['refined']:>7} "
                f"{row['score_before']:>7.3f} {after:>7} {before[index]:>9.0%} {shares[0]:>6.0%} "
                f"{shares[1]:>12.0%}"
            )
        unresolved = sum(row["outcome"] == "unresolved" for row in part["prompts"])
        print(f"unresolved {unresolved} of {len(part['prompts'])}")
        for name in ("localized", "with_unresolved"):
            shares = part["replication"][name]
            print(
                f"{name}: {part['neurons'][name]} neurons off, replication {sum(before) / len(before):.0%} "
                f"-> {sum(shares) / len(shares):.0%}, ordinary change {part['ordinary_change'][name]:.2f}"
            )


if __name__ == "__main__":
    sys.exit(main())
