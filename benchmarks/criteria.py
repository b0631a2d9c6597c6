"""Whose word is it worth to take? `python benchmarks/criteria.py [--limit N] [--seeds N] [--json FILE]`.

For planted, template and natural memories of the testbed and several sets of neurons each, every criterion
says whether the memory is broken (its score on the search's seeds against its calibrated threshold); then
pictures are drawn with the same neurons off, on fresh seeds, without guidance and at the pipeline's own, and
compared with the training image. A criterion is right where it says "broken" and no picture is a replica, or
"not broken" and some picture is.

The sets: nothing; half of the memory's own rows (one of several; a stranger's where it has one row only); its
own rows; the rows of all memories. The natural variant has no rows of its own: the 60 and the 150 neurons
that stand out most for the prompt, and all rows of the seven layers.

`target-gone` is asked twice: with SOURCE's own replica as target, and with the training image.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from surgery.localization.activations import activations, z_scores
from surgery.localization.calibration import Calibration, calibrate, predictor_of
from surgery.localization.confirmation import PICTURE_STEPS
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.settings import LocalizeSettings
from surgery.measures.pictures import decode_latents, encode_pictures, reconstruct, to_unit_range
from surgery.measures.similarity import DEFAULT, named_similarity
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.model.sketches import ShortSampler, own_guidance
from surgery.model.value_layers import value_layers
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import (
    PLANTED_FOLDER,
    PlantedMemory,
    assemble_variant,
    read_ground_truth,
    read_ordinary_prompts,
)

NATURAL = Path(__file__).resolve().parent.parent / "tests" / "data" / "natural.safetensors"
FRESH_SEED = 31_337
ASKED = ("seeds-diverge", "noise-changed", "target-gone", "target-gone, image")


def planted_sets(memory: PlantedMemory, memories: list[PlantedMemory]) -> dict[str, NeuronSet]:
    """The sets that a planted memory is judged with."""
    own = list(memory.neurons.pairs())
    stranger = memories[(memories.index(memory) + 3) % len(memories)].neurons
    return {
        "nothing": NeuronSet(),
        "half": NeuronSet.from_pairs(own[: len(own) // 2]) if len(own) > 1 else stranger,
        "own": memory.neurons,
        "all": NeuronSet().union(*(one.neurons for one in memories)),
    }


def natural_sets(model: LiveModel, calibration: Calibration, caption: str) -> dict[str, NeuronSet]:
    """The sets that a natural memory is judged with."""
    layers = value_layers(model.denoiser, ("down", "mid"), "value")
    found = activations(layers, encode_prompts(model, [caption]))
    ranked = sorted(
        (-float(z), name, row)
        for name, values in found.items()
        for row, z in enumerate(z_scores(values[0], calibration.mean[name], calibration.std[name]))
    )
    sets = {
        f"z {count}": NeuronSet.from_pairs((name, row) for _, name, row in ranked[:count])
        for count in (60, 150)
    }
    every = NeuronSet({name: range(layer.out_features) for name, layer in layers.items()})
    return {"nothing": NeuronSet(), **sets, "all": every}


class Judge:
    """What criteria say, and what pictures show, for one model."""

    def __init__(self, model: LiveModel, calibration: Calibration, seeds: int) -> None:
        self.model, self.calibration = model, calibration
        self.latents = seeded_latents(model, LocalizeSettings().seed, LocalizeSettings().seeds)
        self.fresh = seeded_latents(model, FRESH_SEED, seeds)
        self.predictor = predictor_of(model, LocalizeSettings())
        guidance = own_guidance(model)
        self.drawing = {1.0: NoisePredictor(model), guidance: NoisePredictor(model, guidance=guidance)}
        self.similarity = named_similarity(DEFAULT)

    def says(self, memory: PlantedMemory, image: torch.Tensor, off: NeuronSet) -> dict[str, bool | None]:
        """Criterion -> whether the memory is broken; None where its gate keeps no seed."""
        conditioning = encode_prompts(self.model, [memory.caption])
        said: dict[str, bool | None] = {}
        for asked in ASKED:
            name, _, with_image = asked.partition(", ")
            criterion = self.calibration.criterion(name)
            threshold = self.calibration.threshold(criterion)
            if with_image:
                target = encode_pictures(self.model, image[None])[0]
                criterion = criterion.shown({memory.caption: target}).of_prompt(memory.caption)
            evaluator = PromptEvaluator(self.predictor, conditioning, self.latents, criterion)
            kept = evaluator.judge(threshold).kept
            said[asked] = evaluator.score(off) <= threshold if kept else None
        return said

    def shows(self, memory: PlantedMemory, image: torch.Tensor, off: NeuronSet) -> dict[float, int]:
        """Guidance -> replicas among the fresh seeds."""
        conditioning = encode_prompts(self.model, [memory.caption])
        target = to_unit_range(reconstruct(self.model, image[None]))[0]
        mask = torch.from_numpy(memory.mask())
        counts = {}
        for guidance, predictor in self.drawing.items():
            clean = ShortSampler(predictor, PICTURE_STEPS).draw(self.fresh, conditioning, off)
            drawn = to_unit_range(decode_latents(self.model, clean))
            likeness = self.similarity(drawn, target.expand_as(drawn), mask)
            counts[guidance] = int((likeness >= self.similarity.threshold).sum())
        return counts


def rows(variant: str, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per memory and set."""
    model = load_pipeline(folder, device="cpu")
    memories = read_ground_truth(folder)
    settings = LocalizeSettings(confirm_seeds=0)
    calibration = calibrate(model, read_ordinary_prompts(folder), settings, score_prompts=arguments.ordinary)
    judge = Judge(model, calibration, arguments.seeds)
    images = training_images(memories)
    every = memories[:: max(1, len(memories) // arguments.limit)] if arguments.limit else memories
    for memory in every:
        image = images[memories.index(memory)]
        sets = (
            planted_sets(memory, memories)
            if variant == "planted"
            else natural_sets(model, calibration, memory.caption)
        )
        for name, off in sets.items():
            row = {
                "kind": f"{variant} {memory.kind}",
                "memory": memory.name,
                "set": name,
                "says": judge.says(memory, image, off),
                "replicas": judge.shows(memory, image, off),
            }
            print(json.dumps(row), flush=True)
            yield row


def tables(found: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, str]]]:
    """Guidance -> kind -> criterion -> "right of asked"; printed too."""
    result: dict[str, dict[str, dict[str, str]]] = {}
    for guidance in found[0]["replicas"]:
        kinds = list(dict.fromkeys(row["kind"] for row in found))
        table: dict[str, dict[str, str]] = {}
        for kind in [*kinds, "all"]:
            some = [row for row in found if kind in ("all", row["kind"])]
            table[kind] = {
                asked: "{} of {}".format(
                    sum(bool(row["says"][asked]) == (row["replicas"][guidance] == 0) for row in some),
                    len(some),
                )
                for asked in ASKED
            }
        result[f"{guidance:g}"] = table
        print(f"\npictures at guidance {guidance:g}\n{'':22}" + "".join(f"{asked:>20}" for asked in ASKED))
        for kind, cells in table.items():
            print(f"{kind:22}" + "".join(f"{cells[asked]:>20}" for asked in ASKED))
    return result


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, metavar="N", help="about N memories of each variant")
    parser.add_argument("--seeds", type=int, default=4, help="fresh seeds drawn per set and guidance")
    parser.add_argument("--ordinary", type=int, default=64, help="ordinary prompts calibrated on")
    parser.add_argument("--json", metavar="FILE", help="write rows and tables here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        natural = assemble_variant(NATURAL, Path(folder) / "natural")
        found = [
            row
            for variant, place in (("planted", Path(PLANTED_FOLDER)), ("natural", Path(natural)))
            for row in rows(variant, place, arguments)
        ]
    result = tables(found)
    if arguments.json:
        document = {"tables": result, "rows": found}
        Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
