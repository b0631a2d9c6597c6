"""One mask for the corpus. `python benchmarks/joint.py [planted|natural] [--blocks down mid up]`.

Localizes every memory of a variant of the testbed by itself and then searches the joint mask. Prints, for the
union of the prompts' own sets and for the joint mask: neurons, replication on fresh seeds (without guidance
and at the pipeline's own), ordinary change (8 timesteps, 25 ordinary prompts, none of them the search's);
what each search cost; the frontier; against the ground truth, where there is one, precision. `--layers` tells
instead what each kind of block adds: one joint mask per choice of blocks, from no prompt's own set.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from natural import WEIGHTS, change, replication

from surgery.localization.joint.mask import find_joint_mask
from surgery.localization.localize import localize
from surgery.localization.records import UNRESOLVED, PromptRecord
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.neurons import NeuronSet
from surgery.testbed.load import (
    PLANTED_FOLDER,
    assemble_variant,
    read_ground_truth,
    read_ordinary_prompts,
)

CHOICES = (("down",), ("mid",), ("up",), ("down", "mid"), ("down", "mid", "up"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", nargs="?", choices=("planted", "natural"), default="natural")
    parser.add_argument("--blocks", nargs="+", default=["down", "mid"])
    parser.add_argument("--criterion", default=LocalizeSettings().criterion)
    parser.add_argument("--guidance", type=float, help="of the joint search's pictures")
    parser.add_argument("--seeds", type=int, default=6, help="fresh seeds drawn per memory and guidance")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("-o", "--output", help="write neurons.json here")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        location = str(PLANTED_FOLDER)
        if parsed.variant == "natural":
            location = str(assemble_variant(WEIGHTS, Path(folder) / "natural"))
        settings = LocalizeSettings(
            joint=True,
            criterion=parsed.criterion,
            blocks=tuple(parsed.blocks),
            joint_guidance=parsed.guidance,
            confirm_pictures=0,
        )
        result = layers(location, settings, parsed) if parsed.layers else masks(location, settings, parsed)
    print(json.dumps(result))
    return 0


def masks(location: str, settings: LocalizeSettings, parsed: argparse.Namespace) -> dict:
    """The union of the prompts' own sets beside the joint mask."""
    model, memories = load_pipeline(location), read_ground_truth(location)
    ordinary = read_ordinary_prompts(location)
    captions = [memory.caption for memory in memories]
    found = localize(model, captions, settings=settings, ordinary=ordinary)
    if parsed.output:
        found.write(parsed.output)
    joint = found.evidence["joint"]
    alone = found.evidence["work"]["unet_sample_forwards"] - joint["work"]["unet_sample_forwards"]
    result = {
        "outcomes": found.evidence["outcomes"],
        "sample_forwards": {"prompt by prompt": alone, "joint": joint["work"]["unet_sample_forwards"]},
        "search": {name: value for name, value in joint.items() if name != "work"},
        "left": [memory.name for memory in memories if memory.caption in {r.prompt for r in found.left()}],
    }
    truth = {pair for memory in memories for pair in memory.neurons.pairs()}
    if parsed.variant == "planted":
        chosen = found.neurons.pairs()
        result["precision"] = sum(pair in truth for pair in chosen) / max(1, len(chosen))
    own = [record.refined for record in found.records]
    sets = {"nothing": NeuronSet(), "union": NeuronSet().union(*own), "joint": found.neurons}
    for name, neurons in sets.items():
        result[name] = _measured(model, location, memories, neurons, ordinary, parsed.seeds)
        print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    return result


def layers(location: str, settings: LocalizeSettings, parsed: argparse.Namespace) -> dict:
    """One joint mask per choice of blocks."""
    model, memories = load_pipeline(location), read_ground_truth(location)
    ordinary = read_ordinary_prompts(location)
    records = [PromptRecord(memory.caption, UNRESOLVED, 1.0) for memory in memories]
    result = {}
    for blocks in CHOICES:
        started = time.perf_counter()
        found = find_joint_mask(model, records, ordinary, replace(settings, blocks=blocks))
        name = " ".join(blocks)
        result[name] = {
            **{key: found.evidence[key] for key in ("broken", "neurons", "evaluations", "attributions")},
            **_measured(model, location, memories, found.neurons, ordinary, parsed.seeds),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    return result


def _measured(
    model: LiveModel, location: str, memories: list, neurons: NeuronSet, ordinary: list[str], seeds: int
) -> dict:
    shares = replication(model, memories, neurons, seeds, quiet=True)
    return {
        "neurons": neurons.count,
        "replication": {guidance: round(sum(some) / len(some), 4) for guidance, some in shares.items()},
        "change": round(change(model, location, neurons, ordinary, quiet=True), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
