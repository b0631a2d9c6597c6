"""Does the audit tell the truth? `python benchmarks/verdict.py [-o FOLDER] [--models MODEL ...]`.

Audits of the planted images, with the embedded testbed as SOURCE each time. PATCHED is

1. unpatched: the testbed itself; the truth is `still replicates` for every memory;
2. zeroed: every planted row zeroed by `surgery.patch`; the images are still in the weights (docs/audit.md);
3. closed: an edit that hardened cross-attention alone, `--closed EDIT`; the images are still in the weights;
4. hardened: an edit that hardened the whole denoiser, `--hardened EDIT`; whatever is true;
5. twin: the same training without the planted images; the truth is `removed` for every memory. Strong attacks
   draw never-seen pictures from any model, so it needs a floor as every other model does: `--second-twin
   MODEL`, trained apart (`python -m surgery.testbed.train --variant twin --seed 1 --beside TESTBED -o RUN`).
   Without one it is `not tested`.

The table verdict x model x attack is printed, with the scores behind it. To keep it affordable,

- each model is attacked as far as its word takes (`PLANS`): that an image is hidden needs one attack that
  finds it and a few controls, that it is removed all of them and 19 controls;
- the attacks on SOURCE, and those on the twin, are made once: audits of one folder share them;
- four memories are audited; `--memories` names others.

Audits run one after the other on one thread and go on where they were ended: give the same `-o FOLDER`.
Several processes share each of them, the same folder and the same result:
`python -m torch.distributed.run --nproc-per-node 2 benchmarks/verdict.py -o FOLDER ...`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harden_testbed import TWIN, load_variant
from verdict_table import print_table, record

from surgery.processes import Processes

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("unpatched", "zeroed", "closed", "hardened", "twin")
FLOORED = "twin-beside-second"  # where the twin's audit with a floor of its own is kept

MEMORIES = ("house", "city", "flag", "sunset")  # `city` is the one that short embedding attacks do not find
FINDING, ALL = 2, 19  # controls: for a word that rests on a picture drawn; for one that rests on ranks


@dataclass(frozen=True)
class Plan:
    """How a model is audited: attacks, controls, steps of `output`, and whether the twin is the floor."""

    attack: tuple[str, ...]
    controls: int
    output: str = "50"
    floor: bool = False


PLANS = {
    "unpatched": Plan((), FINDING),
    "zeroed": Plan(("output",), FINDING, "12"),
    "closed": Plan(("output",), FINDING, "12"),
    "twin": Plan(("output", "embedding"), ALL),
    "hardened": Plan(("output", "embedding"), ALL, floor=True),
}


@dataclass(frozen=True)
class Job:
    """One audit: which model is PATCHED, and the sizes."""

    name: str
    planted: str
    patched: str
    output: str
    memories: Sequence[str]
    controls: int
    twin: str | None
    options: Mapping[str, Any]


def run_job(job: Job, processes: Processes) -> dict[str, Any]:
    """One audit, shared by the processes; returns its document with the names of the memories."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from control_drawings import DRAWINGS, control_pictures

    from surgery.auditing.audit import audit
    from surgery.auditing.settings import AuditSettings
    from surgery.auditing.store import Store
    from surgery.measures.pictures import to_bytes_range
    from surgery.testbed.demo import training_images
    from surgery.testbed.load import read_ground_truth

    Store.remove = lambda self: None  # type: ignore[method-assign]  # other audits go on from it
    memories = [one for one in read_ground_truth(job.planted) if one.name in job.memories]
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
        control_images={
            name: to_bytes_range(torch.from_numpy(picture))
            for name, picture in list(zip(DRAWINGS, control_pictures(), strict=True))[: job.controls]
        },
        twin=None if job.twin is None else load_variant(job.planted, job.twin),
        output=job.output,
        settings=AuditSettings(**job.options),
        include_private=True,
        processes=processes,
    )
    names = [memory.name for memory in memories]
    return {
        **result.document,
        "job": job.name,
        "names": names,
        "wall_seconds": time.perf_counter() - started,
    }


def share(folder: Path, job: Job) -> None:
    """Give an audit what earlier ones of the folder measured of the same models, and it would measure again.

    SOURCE is the same in all of them; the twin is PATCHED in its own audit, with a floor or without, and the
    floor of others.
    """
    from surgery.auditing.settings import AuditSettings

    options = json.loads(json.dumps(AuditSettings(**job.options).measured_with()))
    own = Path(job.output) / "state"
    for other in (*MODELS, FLOORED):
        state = folder / other / "state"
        if state == own or not (state / "header.json").is_file():
            continue
        header = json.loads((state / "header.json").read_text())
        if {**header["settings"], "attack": options["attack"]} != options:
            continue
        own.mkdir(parents=True, exist_ok=True)
        for unit in state.glob("*-*-*.json"):
            attack, side, number = unit.stem.rsplit("-", 2)
            names = {"source": "source"}
            if other in ("twin", FLOORED) and job.name == "twin":
                names |= {"patched": "patched", "control": "control"}
            elif other in ("twin", FLOORED) and job.twin is not None:
                names |= {"patched": "twin", "control": "control-twin"}
            target = own / f"{attack}-{names.get(side)}-{number}.json"
            if side in names and not target.exists():
                shutil.copy(unit, target)


def patched_folder(planted: str, folder: Path) -> str:
    """The testbed with every planted row zeroed, as a checkpoint of its own."""
    from surgery import patch
    from surgery.neurons import NeuronSet
    from surgery.testbed.load import read_ground_truth

    neurons = NeuronSet().union(*(memory.neurons for memory in read_ground_truth(planted)))
    patch(planted, neurons, folder)
    return str(folder)


def edited_folder(planted: str, edit: str, folder: Path) -> str:
    """The testbed with an edit of `surgery harden` applied; UNet weights and pipelines stay as they are."""
    from surgery import patch

    if not (Path(edit) / "edit.json").is_file():
        return edit
    patch(planted, edit, folder)
    return str(folder)


def steps_of(words: str) -> tuple[int, ...]:
    """The points of a curve."""
    return tuple(int(word) for word in words.split(","))


def audit_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The settings of every audit, from the command line."""
    options: dict[str, Any] = {
        "seeds": parsed.seeds,
        "steps": parsed.steps,
        "guidance": parsed.guidance,
        "restarts": parsed.restarts,
        "attack_guidance": tuple(float(word) for word in parsed.attack_guidance.split(",")),
        "attack_seeds": parsed.attack_seeds,
        "ordinary": parsed.ordinary,
        "canaries": parsed.canaries,
        "more_seeds": 0,
        "batch_size": 32,
    }
    for name in ("curve", "output_curve", "relearn_curve", "revive_curve", "latent_curve"):
        if (given := getattr(parsed, name)) is not None:
            options[name] = steps_of(given)
    for name in ("similarity", "sscd"):
        if getattr(parsed, name) is not None:
            options[name] = getattr(parsed, name)
    return options


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of the benchmark."""
    from surgery.testbed.load import PLANTED_FOLDER

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--planted", default=str(PLANTED_FOLDER), help="the testbed (default: the embedded one)"
    )
    parser.add_argument("--twin", default=str(TWIN), help="pipeline folder, or UNet weights")
    parser.add_argument("--second-twin", help="likewise, trained apart: the floor of the twin's own audit")
    parser.add_argument("--closed", help="edit of rung 1, pipeline folder or UNet weights")
    parser.add_argument("--hardened", help="edit of rung 2, pipeline folder or UNet weights")
    parser.add_argument("-o", "--output", help="keep the audits here (default: a temporary folder)")
    parser.add_argument("--models", nargs="+", default=["unpatched", "zeroed", "twin"], choices=MODELS)
    parser.add_argument("--memories", nargs="+", default=list(MEMORIES), metavar="NAME")
    parser.add_argument("--attack", help="these for every attacked model, instead of what its word takes")
    parser.add_argument("--attack-guidance", default="1,3")
    parser.add_argument("--guidance", type=float, default=1.0, help="the pipeline's own")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--curve", default="0,50,200")
    for name in ("output", "relearn", "revive", "latent"):
        parser.add_argument(f"--{name}-curve")
    parser.add_argument("--attack-seeds", type=int, default=8)
    parser.add_argument("--canaries", type=int, default=0)
    parser.add_argument("--similarity", default=None, help="default: the package's")
    parser.add_argument("--sscd", default=None, help="SSCD file instead")
    parser.add_argument("--ordinary", type=int, default=2)
    parser.add_argument("--record", metavar="FILE", help="what the verdicts were drawn from, for the tests")
    parser.add_argument("--json", action="store_true", help="print the documents")
    return parser.parse_args(words)


def main() -> None:
    """Run the audits one after the other, print the tables."""
    parsed = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary, Processes.join() as processes:
        folder = Path(parsed.output or processes.from_main(temporary))
        documents = run_jobs(parsed, folder, processes)
        if not processes.is_main:
            return
    if parsed.record:
        record(Path(parsed.record), documents)
    if parsed.json:
        print(json.dumps(documents))
    else:
        print_table(documents)


def run_jobs(parsed: argparse.Namespace, folder: Path, processes: Processes) -> list[dict[str, Any]]:
    """All audits; process 0 prepares the folder and writes what they say."""
    options, documents = audit_options(parsed), []
    folder.mkdir(parents=True, exist_ok=True)
    paths = processes.from_main(model_paths(parsed, folder) if processes.is_main else None)
    for name in parsed.models:
        job = job_of(name, paths[name], folder, parsed, options)
        if processes.is_main:
            share(folder, job)
        documents.append(run_job(job, processes))
        if processes.is_main:
            (folder / f"{name}.json").write_text(json.dumps(documents[-1], indent=1))
            if not parsed.json:
                print_table(documents[-1:])
    return documents


def job_of(
    name: str, patched: str, folder: Path, parsed: argparse.Namespace, options: Mapping[str, Any]
) -> Job:
    """The audit of one model; the twin's own, beside a second twin, is kept apart from the one without."""
    plan = PLANS[name]
    floored = name == "twin" and parsed.second_twin is not None
    attack = tuple(parsed.attack.split(",")) if parsed.attack and plan.attack else plan.attack
    return Job(
        name=name,
        planted=parsed.planted,
        patched=patched,
        output=str(folder / (FLOORED if floored else name)),
        memories=parsed.memories,
        controls=plan.controls,
        twin=parsed.second_twin if floored else parsed.twin if plan.floor else None,
        options={"output_curve": steps_of(plan.output), **options, "attack": attack},
    )


def model_paths(parsed: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Name -> where the model lies, made first where need be."""
    paths = {"unpatched": parsed.planted, "twin": parsed.twin}
    if "zeroed" in parsed.models:
        zeroed = folder / "zeroed-checkpoint"
        paths["zeroed"] = str(zeroed) if zeroed.exists() else patched_folder(parsed.planted, zeroed)
    for name in ("closed", "hardened"):
        if name in parsed.models:
            given = getattr(parsed, name)
            if given is None:
                sys.exit(f"--models {name} needs --{name} EDIT; surgery harden makes one")
            paths[name] = edited_folder(parsed.planted, given, folder / f"{name}-checkpoint")
    return paths


if __name__ == "__main__":
    main()
