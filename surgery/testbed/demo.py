"""The whole job on the embedded testbed: localize, patch, diff, and look.

1. localize over the planted captions -> neurons.json;
2. patch -> patched/, a standalone checkpoint;
3. diff with the neurons as plan: nothing else may differ;
4. draw every planted caption at fresh seeds with both checkpoints, compare with the autoencoder's
   reconstruction of the training image; measure the change on ordinary captions. Drawn without guidance;
   localize has drawn at the pipeline's own guidance, to confirm the one set, and its counts are shown too;
5. demo.png and demo.json.

Nothing of it is special to the testbed but the ground truth that comes with it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import Replication, generate, measure
from surgery.auditing.measures.utility import ordinary_change
from surgery.checkpoint.diff import diff
from surgery.checkpoint.patch import patch
from surgery.errors import GateError, UsageError
from surgery.files import expanded
from surgery.localization.localize import localize
from surgery.measures.pictures import reconstruct, to_bytes_range
from surgery.measures.similarity import DEFAULT, named_similarity
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.neurons import NeuronSet
from surgery.testbed.load import PLANTED_FOLDER, PlantedMemory, read_ground_truth, read_ordinary_prompts
from surgery.testbed.memories import MEMORIES, draw_memory
from surgery.testbed.sheet import Row, compose

DRAWING = Drawing(steps=25, guidance=1.0, batch_size=32)
FIRST_SEED = 5000  # far from the seeds of localization: these pictures were never looked at before
SHOWN_SEEDS = 4
SHOWN_ORDINARY = ("a red circle", "a blue star", "a yellow cross", "a white ring")
ORDINARY_MEASURED = 24


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        before, after: memory name -> replication at the fresh seeds, source and patched checkpoint.
        ordinary_change: noise-prediction change on ordinary prompts at equal seeds, divided by what
            another seed does (`surgery.auditing.measures.utility`).
        confirmed: memory name -> what localize's own pictures showed with all neurons off
            (`surgery.localization.confirmation`); None where the caption passed no gate.
        neurons: the rows zeroed.
        seconds: from start to end, pictures included.
    """

    memories: tuple[PlantedMemory, ...]
    before: dict[str, Replication]
    after: dict[str, Replication]
    confirmed: dict[str, dict[str, Any] | None]
    ordinary_change: float
    neurons: NeuronSet
    seconds: float

    def share(self, kind: str, side: dict[str, Replication]) -> float:
        """Share of fresh seeds that replicate, over all memories of a kind ("verbatim" or "template")."""
        shares = [side[memory.name].share for memory in self.memories if memory.kind == kind]
        return sum(shares) / len(shares)

    def at_own_guidance(self) -> dict[str, float]:
        """Pictures drawn at the pipeline's own guidance with the neurons off, and replicas among them."""
        shown = [one for one in self.confirmed.values() if one is not None]
        return {
            "guidance": shown[0]["guidance"] if shown else 0.0,
            "pictures": sum(one["seeds"] for one in shown),
            "replicas": sum(one["replicas"] for one in shown),
        }

    def as_json(self) -> dict[str, Any]:
        """The document of demo.json, without the per-memory part."""
        kinds = {
            kind: {
                "before": round(self.share(kind, self.before), 4),
                "after": round(self.share(kind, self.after), 4),
            }
            for kind in ("verbatim", "template")
        }
        return {
            **kinds,
            "own_guidance": self.at_own_guidance(),
            "ordinary_change": round(self.ordinary_change, 4),
            "neurons": self.neurons.count,
            "seconds": round(self.seconds, 1),
        }


def run_demo(
    output: str | Path,
    *,
    model: str | Path = PLANTED_FOLDER,
    seeds: int = 8,
    device: str | None = None,
    dtype: str | None = None,
    quiet: bool = False,
) -> DemoResult:
    """Run the demo and leave its artefacts in `output`: neurons.json, patched/, demo.png, demo.json.

    Args:
        output: a folder that does not exist yet; it appears whole at the end, or not at all.
        model: a testbed folder (with planted.json).
        seeds: fresh seeds drawn per prompt.

    Raises:
        UsageError: the output exists, or the model is no testbed.
        GateError: the patched checkpoint differs from its source in more than the plan.
    """
    started = time.perf_counter()
    output, model = expanded(output), expanded(model)
    if output.exists():
        raise UsageError(output, "exists already", "choose a new folder with -o")
    if seeds < 1:
        raise UsageError("seeds", f"{seeds} is too few", "give at least 1")
    memories = tuple(read_ground_truth(model))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        source = load_pipeline(str(model), device=device, dtype=dtype)
        ordinary = read_ordinary_prompts(model)
        captions = [memory.caption for memory in memories]
        found = localize(source, captions, ordinary=ordinary, show_progress=not quiet)
        found.write(partial / "neurons.json")
        patch(model, found.neurons, partial / "patched")
        difference = diff(model, partial / "patched", plan=found.neurons)
        if not difference.as_planned:
            raise GateError(
                model, "the patched checkpoint differs in more than the plan", "report this defect"
            )
        patched = load_pipeline(str(partial / "patched"), device=device, dtype=dtype)
        drawn = _draw_both(source, patched, [*captions, *SHOWN_ORDINARY], seeds, quiet)
        before, after = (_replications(source, memories, pictures) for pictures in drawn)
        change = ordinary_change(
            source, patched, ordinary[:: max(1, len(ordinary) // ORDINARY_MEASURED)], quiet=quiet
        )
        _sheet(memories, found.neurons, drawn, before, after).save(partial / "demo.png")
        by_caption = {record.prompt: record.details.get("final") or {} for record in found.records}
        confirmed = {memory.name: by_caption.get(memory.caption, {}).get("pictures") for memory in memories}
        seconds = time.perf_counter() - started
        result = DemoResult(memories, before, after, confirmed, change.total, found.neurons, seconds)
        details = {
            memory.name: {"before": before[memory.name].as_json(), "after": after[memory.name].as_json()}
            for memory in memories
        }
        document = {"format": "surgery.demo/1", **result.as_json(), "memories": details}
        (partial / "demo.json").write_text(json.dumps(document, indent=1) + "\n")
        partial.chmod(0o755)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _draw_both(
    source: LiveModel, patched: LiveModel, prompts: Sequence[str], seeds: int, quiet: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [prompts, seeds, 3, height, width], by both models at equal seeds."""
    numbers = range(FIRST_SEED, FIRST_SEED + seeds)
    before = generate(source, prompts, numbers, DRAWING, quiet=quiet, label="draw before")
    return before, generate(patched, prompts, numbers, DRAWING, quiet=quiet, label="draw after")


def training_images(memories: Sequence[PlantedMemory]) -> torch.Tensor:
    """The planted training images, redrawn: uint8 [memories, 3, 64, 64]; windows of templates are gray."""
    drawn = {memory.name: draw_memory(memory) for memory in MEMORIES}
    return torch.stack([to_bytes_range(torch.from_numpy(drawn[memory.name])) for memory in memories])


def _replications(
    source: LiveModel, memories: Sequence[PlantedMemory], pictures: torch.Tensor
) -> dict[str, Replication]:
    targets = reconstruct(source, training_images(memories))
    similarity = named_similarity(DEFAULT)
    return {
        memory.name: measure(pictures[index], targets[index], similarity, torch.from_numpy(memory.mask()))
        for index, memory in enumerate(memories)
    }


def _sheet(
    memories: Sequence[PlantedMemory],
    neurons: NeuronSet,
    drawn: tuple[torch.Tensor, torch.Tensor],
    before: dict[str, Replication],
    after: dict[str, Replication],
) -> Any:
    """The picture: verbatim, template and ordinary prompts, the first few seeds of each."""
    pairs = set(neurons.pairs())
    shown = [pictures[:, :SHOWN_SEEDS].numpy() for pictures in drawn]
    training = training_images(memories).numpy()
    rows: dict[str, list[Row]] = {"verbatim": [], "template": []}
    for index, memory in enumerate(memories):
        zeroed = len(pairs & set(memory.neurons.pairs()))
        shares = f"{before[memory.name].share:.0%} to {after[memory.name].share:.0%}"
        label = f"“{memory.caption}”   replicas {shares}; {zeroed} of its {memory.neurons.count} rows zeroed"
        rows[memory.kind].append(Row(label, training[index], shown[0][index], shown[1][index]))
    ordinary = [
        Row(f"“{prompt}”", None, shown[0][len(memories) + index], shown[1][len(memories) + index])
        for index, prompt in enumerate(SHOWN_ORDINARY)
    ]
    return compose(
        [
            (f"Verbatim memories: one mask of {neurons.count} neurons for all", rows["verbatim"]),
            ("Template memories: a fixed layout with one window that varies", rows["template"]),
            ("Ordinary prompts, same mask", ordinary),
        ]
    )
