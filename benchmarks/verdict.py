"""Does the audit tell the truth? `python benchmarks/verdict.py [-o FOLDER] [--twin PATH]`.

Three audits of the planted images, with the embedded testbed as SOURCE each time:

1. unpatched: PATCHED is the testbed itself; the truth is `still replicates` for every memory;
2. patched: every planted row zeroed by `surgery.patch`; whatever is true;
3. twin: the same training without the planted images; the truth is `removed` for every memory.

The table verdict x model is printed, with the scores behind it. Audits run side by side, one thread each.
Default sizes take about a quarter of an hour on two cores; `--memories 6` gives a first look.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TWIN = ROOT / "tests" / "data" / "twin.safetensors"


@dataclass(frozen=True)
class Job:
    """One audit: which model is PATCHED, and the sizes."""

    name: str
    planted: str
    patched: str
    output: str
    memories: int | None
    attack: bool
    options: Mapping[str, Any]


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


def run_job(job: Job) -> dict[str, Any]:
    """One audit; returns its document with the names of the memories."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from control_drawings import control_pictures

    from surgery.auditing.audit import audit
    from surgery.auditing.measures.pictures import to_bytes_range
    from surgery.auditing.settings import AuditSettings
    from surgery.testbed.demo import training_images
    from surgery.testbed.load import read_ground_truth

    memories = read_ground_truth(job.planted)[: job.memories]
    images = training_images(memories)
    started = time.perf_counter()
    result = audit(
        load_variant(job.planted, job.planted),
        load_variant(job.planted, job.patched),
        [memory.caption for memory in memories],
        images={memory.caption: image for memory, image in zip(memories, images, strict=True)},
        masks={
            memory.caption: torch.from_numpy(memory.mask())
            for memory in memories
            if memory.window is not None
        },
        control_images=[to_bytes_range(torch.from_numpy(picture)) for picture in control_pictures()],
        output=job.output,
        settings=AuditSettings(attack=job.attack, **job.options),
        include_private=True,
    )
    names = [memory.name for memory in memories]
    return {
        **result.document,
        "job": job.name,
        "names": names,
        "wall_seconds": time.perf_counter() - started,
    }


def patched_folder(planted: str, folder: Path) -> str:
    """The testbed with every planted row zeroed, as a checkpoint of its own."""
    from surgery import patch
    from surgery.neurons import NeuronSet
    from surgery.testbed.load import read_ground_truth

    neurons = NeuronSet().union(*(memory.neurons for memory in read_ground_truth(planted)))
    patch(planted, neurons, folder)
    return str(folder)


def print_table(documents: list[dict[str, Any]]) -> None:
    """Verdict x model, then each prompt's scores."""
    from surgery.auditing.judgement.verdict import WORDS

    print(f"\n{'model':<10} " + " ".join(f"{word:>20}" for word in WORDS) + "   checkpoint")
    for document in documents:
        counts = " ".join(f"{document['counts'][word]:>20}" for word in WORDS)
        print(f"{document['job']:<10} {counts}   {document['verdict']}")
    for document in documents:
        before, after = (document["replication"][side] for side in ("before", "after"))
        print(
            f"\n{document['job']}: replication {before['share']:.0%} -> {after['share']:.0%}"
            f" of {after['pictures']} pictures; {document['reason']};"
            f" {document['work']['sample_forwards']} sample-forwards, {document['wall_seconds']:.0f} s"
        )
        if not document["attack"] or not document["attack"]["attacked_prompts"]:
            continue
        controls = document["attack"]["controls"]["scores"]
        print(
            f"  pooled p {document['pooled_p_value']:.2g}; controls: median {median(controls):.2f}, "
            f"highest {max(controls):.2f}, {len(controls)} images"
        )
        print(f"  {'memory':<10} {'SOURCE':>7} {'PATCHED':>8}   curve of PATCHED         p     verdict")
        for name, entry in zip(document["names"], document["prompts"], strict=True):
            attack = entry["attack"]
            if attack is None or not attack["patched"] or not attack["source"]:
                print(f"  {name:<10} {'-':>7} {'-':>8}   {entry['verdict']}")
                continue
            source, patched = attack["source"]["score"], attack["patched"]["score"]
            curve = " ".join(f"{score:5.2f}" for score in patched)
            p_value = f"{attack['p_value']:.3f}" if attack.get("p_value") is not None else "-"
            print(
                f"  {name:<10} {max(source):>7.2f} {max(patched):>8.2f}   {curve}   {p_value:>6}  "
                f"{entry['verdict']}"
            )


def main() -> None:
    """The command line of the benchmark."""
    from surgery.testbed.load import PLANTED_FOLDER

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--planted", default=str(PLANTED_FOLDER), help="the testbed (default: the embedded one)"
    )
    parser.add_argument("--twin", default=str(TWIN), help="pipeline folder, or UNet weights")
    parser.add_argument("-o", "--output", help="keep the audits here (default: a temporary folder)")
    parser.add_argument("--models", nargs="+", default=["unpatched", "patched", "twin"], metavar="MODEL")
    parser.add_argument("--memories", type=int, help="only the first N")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--curve", default="0,10,25,50")
    parser.add_argument("--attack-seeds", type=int, default=4)
    parser.add_argument("--similarity", default=None, help="default: the package's")
    parser.add_argument("--sscd", default=None, help="SSCD file instead")
    parser.add_argument("--ordinary", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parsed = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    options: dict[str, Any] = {
        "seeds": parsed.seeds,
        "steps": parsed.steps,
        "guidance": 1.0,
        "restarts": parsed.restarts,
        "curve": tuple(int(step) for step in parsed.curve.split(",")),
        "attack_seeds": parsed.attack_seeds,
        "ordinary": parsed.ordinary,
        "batch_size": 32,
    }
    for name in ("similarity", "sscd"):
        if getattr(parsed, name) is not None:
            options[name] = getattr(parsed, name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(parsed.output or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {"unpatched": parsed.planted, "twin": parsed.twin}
        if "patched" in parsed.models:
            patched = folder / "patched-checkpoint"
            paths["patched"] = str(patched) if patched.exists() else patched_folder(parsed.planted, patched)
        jobs = [
            Job(
                name,
                parsed.planted,
                paths[name],
                str(folder / name),
                parsed.memories,
                name != "unpatched",
                options,
            )
            for name in parsed.models
        ]
        # the long audits first; spawn, because torch and fork do not mix
        jobs.sort(key=lambda job: job.name == "unpatched")
        with multiprocessing.get_context("spawn").Pool(min(parsed.processes, len(jobs))) as pool:
            found = {document["job"]: document for document in pool.imap_unordered(run_job, jobs)}
        documents = [found[name] for name in parsed.models]
        print_table(documents)
        if parsed.output:
            (folder / "verdict.json").write_text(json.dumps(documents))


if __name__ == "__main__":
    main()
