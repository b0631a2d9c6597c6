"""A memory by duplication alone: `python benchmarks/harden_natural.py [--rounds N] [--blinding W]`.

Hardens the natural variant of the testbed by its prompts, without neurons, and says as JSON how often they
replicate before and after, what became of ordinary prompts, and what it cost.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harden_testbed import ROOT, STEPS, cost_share

NATURAL = ROOT / "tests" / "data" / "natural.safetensors"
NATURAL_SEEDS = range(9200, 9204)


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

        before = {f"guidance {one:g}": replication(model, one) for one in parsed.guidance}
        edit = Path(parsed.edit) if parsed.edit else Path(folder) / "edit"
        result = harden(
            source, captions, edit,
            images=dict(zip(captions, training_images(memories), strict=True)),
            settings=HardenSettings(
                rungs=("hardened",), rounds=parsed.rounds, first_gate=parsed.rounds, blinding=parsed.blinding,
                gate_embedding=1, gate_output=1, gate_controls=1, gate_seeds=1,
            ),
            similarity="edges", keep_going=True, device="cpu",
        )  # fmt: skip
        patch(source, edit, Path(folder) / "patched")
        hardened = load_pipeline(Path(folder) / "patched", device="cpu", dtype="float32")
        return {
            "before": before,
            "after": {f"guidance {one:g}": replication(hardened, one) for one in parsed.guidance},
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


def main() -> None:
    """Harden, measure and print."""
    import torch

    from surgery.hardening.settings import HardenSettings

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--guidance", type=lambda text: [float(one) for one in text.split(",")], default=[1.0, 3.0]
    )
    parser.add_argument("--edit", help="where the edit is kept; by default it is thrown away")
    parser.add_argument("--rounds", type=int, default=HardenSettings().rounds, help="of hardening")
    parser.add_argument("--blinding", type=float, default=HardenSettings().blinding, help="likewise")
    print(json.dumps(natural(parser.parse_args()), indent=1))


if __name__ == "__main__":
    main()
