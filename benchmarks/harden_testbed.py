"""What the benchmarks of hardening share: the testbed, the models that are judged, and how an edit is made.

Models: the planted testbed with every planted row zeroed; an edit of `surgery harden`, patched; UNet weights,
the twin's among them. All attackers see all memories of a model side by side.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TWIN = ROOT / "tests" / "data" / "twin.safetensors"
MARGIN = 0.1  # above the twin's score
ATTACK_SEED = 9_000_000
STEPS = 20  # of the sampler


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
    from surgery import patch
    from surgery.hardening.material import zero_rows
    from surgery.model.pipeline import load_pipeline
    from surgery.neurons import NeuronSet
    from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

    if name == "zeroed":
        model = load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")
        zero_rows(model, NeuronSet().union(*(one.neurons for one in read_ground_truth())))
        return model, 0.0
    assert given is not None
    if (Path(given) / "edit.json").is_file():
        with tempfile.TemporaryDirectory() as folder:
            patch(PLANTED_FOLDER, given, Path(folder) / "patched")
            return load_pipeline(Path(folder) / "patched", device="cpu", dtype="float32"), cost_share(given)
    return load_variant(str(PLANTED_FOLDER), given), 1.0 if name == "twin" else None


def load_variant(planted: str, path: str) -> Any:
    """A pipeline folder, or the planted pipeline with the UNet of a file, or of a folder of one file."""
    from safetensors.torch import load_file

    from surgery.model.pipeline import load_pipeline

    folder = Path(path)
    if (folder / "model_index.json").is_file():
        return load_pipeline(folder, device="cpu", dtype="float32")
    model = load_pipeline(planted, device="cpu", dtype="float32")
    weights = [folder] if folder.is_file() else sorted(folder.rglob("*.safetensors"))
    if len(weights) != 1:
        sys.exit(f"{path}: expected one UNet weight file, found {len(weights)}")
    state = {name: value.float() for name, value in load_file(weights[0]).items()}
    model.denoiser.load_state_dict(state)
    return model


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


def make_edit(testbed: Testbed, rung: str, edit: Path, rounds: int, change: dict[str, Any]) -> Any:
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
