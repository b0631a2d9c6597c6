"""Does the testbed show the phenomenon? `python benchmarks/testbed.py [MODEL] [--sheet PNG]`.

Prints, for one testbed folder (default: the embedded, planted one):

1. similarity measures: AUROC with which each tells replicas (planted captions) from strangers (the same
   captions and seeds with all planted rows off, and ordinary captions), against the autoencoder's
   reconstruction of the training image; and the threshold midway between the two groups;
2. replication: share of fresh seeds whose picture is a replica, per memory, by the default measure;
3. switches: the same with the memory's own rows off, and the worst share that any OTHER memory without a
   shared row keeps with them off;
4. ordinary captions: similarity among seeds, and the share of pictures that show the color named;
5. the gate: AUROC of the memorization score, planted against ordinary captions.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy
import torch

from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import generate, measure, seed_similarity, similarities_to
from surgery.localization.ms_ssim import pairwise_scores, window_of
from surgery.measures.pictures import reconstruct, to_unit_range
from surgery.measures.similarity import DEFAULT, SIMILARITIES, named_similarity
from surgery.model.ablation import ablate
from surgery.model.denoising import NoisePredictor, encode_prompts, noise_differences, seeded_latents
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, PlantedMemory, read_ground_truth, read_ordinary_prompts
from surgery.testbed.pictures import COLORS
from surgery.testbed.sheet import Row, compose

FRESH_SEEDS = range(9000, 9008)
SWITCH_SEEDS = range(9100, 9104)
DRAWING = Drawing(steps=25, guidance=1.0, batch_size=32)


def auroc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()


def shows_color(picture: torch.Tensor, color: str) -> bool:
    """Whether at least 3 % of the pixels lie nearest to the named color, within 70 of it (of 441)."""
    pixels = (to_unit_range(picture).permute(1, 2, 0).reshape(-1, 3) + 1) * 127.5
    distances = (pixels - torch.tensor(COLORS[color])).norm(dim=1)
    return bool((distances < 70).float().mean() >= 0.03)


def gate_scores(model: LiveModel, captions: list[str], seeds: int = 10) -> torch.Tensor:
    """The memorization score of each caption: mean pairwise MS-SSIM of its noise differences over seeds."""
    predictor = NoisePredictor(model)
    latents = seeded_latents(model, 77, seeds)
    window = window_of(*latents.shape[-2:])
    first, second = torch.triu_indices(seeds, seeds, offset=1)
    scores = []
    for caption in captions:
        prediction = predictor.predict(latents, encode_prompts(model, [caption]))
        scores.append(pairwise_scores(noise_differences(prediction, latents), window)[first, second].mean())
    return torch.stack(scores).cpu()


def compare_measures(
    drawn: torch.Tensor, off: torch.Tensor, ordinary: torch.Tensor, targets: torch.Tensor, masks: list
) -> dict[str, dict[str, float]]:
    """Measure name -> AUROC and the two groups' inner edges."""
    table = {}
    for name, similarity in SIMILARITIES.items():
        replicas, strangers = [], []
        for index, (target, mask) in enumerate(zip(targets, masks, strict=True)):
            replicas.append(similarities_to(drawn[index], target, similarity, mask))
            strangers.append(similarities_to(off[index], target, similarity, mask))
            strangers.append(similarities_to(ordinary.flatten(0, 1), target, similarity, mask))
        positive, negative = torch.cat(replicas), torch.cat(strangers)
        low, high = positive.quantile(0.05).item(), negative.quantile(0.995).item()
        table[name] = {
            "auroc": auroc(positive, negative),
            "replicas_5_percent": low,
            "strangers_99.5_percent": high,
            "midway": (low + high) / 2,
            "threshold": similarity.threshold,
        }
    return table


def switch_table(
    model: LiveModel, memories: list[PlantedMemory], targets: torch.Tensor, masks: list, quiet: bool
) -> dict[str, dict[str, float]]:
    """Memory name -> share of replicas with its own rows off, and the worst among strangers meanwhile."""
    similarity = named_similarity(DEFAULT)
    captions = [memory.caption for memory in memories]
    table = {}
    for index, memory in enumerate(memories):
        with ablate(model.denoiser, memory.neurons):
            drawn = generate(model, captions, SWITCH_SEEDS, DRAWING, quiet=quiet, label=f"off: {memory.name}")
        shares = [
            measure(pictures, target, similarity, mask).share
            for pictures, target, mask in zip(drawn, targets, masks, strict=True)
        ]
        own = set(memory.neurons.pairs())
        strangers = [
            share
            for share, other in zip(shares, memories, strict=True)
            if not own & set(other.neurons.pairs())
        ]
        table[memory.name] = {"own": shares[index], "worst_stranger": min(strangers)}
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(PLANTED_FOLDER))
    parser.add_argument("--sheet", help="write the pictures as a PNG, for the eye")
    parser.add_argument("--no-switches", action="store_true", help="skip part 3, the longest")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parsed = parser.parse_args()
    model, memories = load_pipeline(parsed.model), read_ground_truth(parsed.model)
    every = read_ordinary_prompts(parsed.model)
    described = [prompt for prompt in every if prompt.startswith("a ") and "picture" not in prompt][::3]
    captions = [memory.caption for memory in memories]
    masks = [torch.from_numpy(memory.mask()) for memory in memories]
    targets = reconstruct(model, training_images(memories))
    planted = NeuronSet().union(*(memory.neurons for memory in memories))

    drawn = generate(model, captions, FRESH_SEEDS, DRAWING, quiet=parsed.quiet, label="planted")
    with ablate(model.denoiser, planted):
        off = generate(model, captions, FRESH_SEEDS, DRAWING, quiet=parsed.quiet, label="all rows off")
    ordinary = generate(model, described, SWITCH_SEEDS, DRAWING, quiet=parsed.quiet, label="ordinary")
    similarity = named_similarity(DEFAULT)
    result = {
        "model": Path(parsed.model).name,
        "measures": compare_measures(drawn, off, ordinary, targets, masks),
        "replication": {
            memory.name: measure(drawn[i], targets[i], similarity, masks[i]).as_json()
            for i, memory in enumerate(memories)
        },
        "all_rows_off": {
            memory.name: measure(off[i], targets[i], similarity, masks[i]).share
            for i, memory in enumerate(memories)
        },
        "ordinary_seed_similarity": float(numpy.median([seed_similarity(p, similarity) for p in ordinary])),
        "ordinary_color_shown": float(
            numpy.mean([
                shows_color(picture, prompt.split()[1])
                for prompt, pictures in zip(described, ordinary, strict=True)
                for picture in pictures
            ])
        ),
        "gate_auroc": auroc(gate_scores(model, captions), gate_scores(model, every[::3])),
    }  # fmt: skip
    if not parsed.no_switches:
        result["switches"] = switch_table(model, memories, targets, masks, parsed.quiet)
    if parsed.sheet:
        write_sheet(parsed.sheet, memories, described, drawn, off, ordinary)
    if parsed.json:
        print(json.dumps(result))
    else:
        print_tables(result, memories)
    return 0


def write_sheet(
    path: Path,
    memories: list[PlantedMemory],
    described: list[str],
    drawn: torch.Tensor,
    off: torch.Tensor,
    ordinary: torch.Tensor,
) -> None:
    """Planted captions before / with all rows off, and ordinary captions, as one PNG."""
    training = training_images(memories).numpy()
    shown = len(SWITCH_SEEDS)
    rows = [
        Row(memory.caption, training[i], drawn[i, :shown].numpy(), off[i, :shown].numpy())
        for i, memory in enumerate(memories)
    ]
    half = len(described) // 2
    plain = [
        Row(f"{described[i]} | {described[half + i]}", None, ordinary[i].numpy(), ordinary[half + i].numpy())
        for i in range(half)
    ]
    compose([("Planted captions; right: all rows off", rows), ("Ordinary captions", plain)]).save(path)


def print_tables(result: dict, memories: list[PlantedMemory]) -> None:
    """The tables of the module's docstring."""
    print(f"{result['model']}\n")
    print(f"{'measure':<10} {'AUROC':>7} {'replicas 5%':>12} {'strangers 99.5%':>16} {'midway':>7}")
    for name, row in result["measures"].items():
        print(
            f"{name:<10} {row['auroc']:>7.4f} {row['replicas_5_percent']:>12.3f} "
            f"{row['strangers_99.5_percent']:>16.3f} {row['midway']:>7.3f}"
        )
    print(f"\nreplicas by `{DEFAULT}` at {result['measures'][DEFAULT]['threshold']}, fresh seeds")
    head = f"{'memory':<10} {'kind':<9} {'share':>6} {'median':>7} {'all off':>8}"
    print(f"{head} {'own off':>8} {'others keep':>12}")
    for memory in memories:
        row, switches = result["replication"][memory.name], result.get("switches", {}).get(memory.name)
        tail = f" {switches['own']:>8.0%} {switches['worst_stranger']:>12.0%}" if switches else ""
        off = result["all_rows_off"][memory.name]
        print(
            f"{memory.name:<10} {memory.kind:<9} {row['share']:>6.0%} {row['median']:>7.3f} {off:>8.0%}{tail}"
        )
    for kind in ("verbatim", "template"):
        shares = [result["replication"][m.name]["share"] for m in memories if m.kind == kind]
        print(f"{'all':<10} {kind:<9} {sum(shares) / len(shares):>6.1%}")
    print(
        f"\nordinary captions: similarity among seeds {result['ordinary_seed_similarity']:.3f} (median), "
        f"color shown in {result['ordinary_color_shown']:.0%} of pictures\n"
        f"gate: AUROC {result['gate_auroc']:.4f}, planted against ordinary captions"
    )


if __name__ == "__main__":
    sys.exit(main())
