"""Is it gone, also for whoever trains? `python benchmarks/harden_attackers.py -o FILE [--hardened EDIT]`.

The testbed's memories under the audit's own attacks `revive`, `relearn` and `latent`, on the models of
`benchmarks/harden.py`: rows zeroed, an edit of the rung closed, one of the rung hardened, and the twin, which
never saw the images. An attack on one image is the same on every model: seeds, fine-tuning, starting noise.

Printed for each model, memory by memory: the score under each attack beside the twin's, and after how many
steps of `relearn` it replicates beside the twin; below, how many memories lie above the twin by .1 or more
and the median ratio of the steps (linear between the points of the curve). Where one of the two never
replicates the ratio is only bounded, and the median is printed as the range in which it lies.

What it costs is where the audit's defaults spend most of it, in pictures of intermediate points of 50 steps
each. Here (`SETTINGS`) a picture takes 10 steps; `revive` and `latent` are looked at once, at their end;
`latent` keeps its sampler steps instead of running them again, and scores 4 pictures; `relearn` has one
learner (the whole denoiser; LoRA of rank 4 takes longer) and pictures without guidance; and `revive` teaches
once for all memories that share their siblings: a third of the memories is left out each time, so that three
fine-tunings serve all. Some 21 minutes of a core for one model: 4, 6 and 11.

FILE is written after every image, and the same command goes on from it; `--reuse FILE` takes models from
files of before, such as the twin, which need not be measured again. `--memories city poster --attacks revive`
is a first look.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harden_attackers_table import ATTACKS, Units, print_tables
from harden_testbed import TWIN, Testbed, load_model, load_testbed

from surgery.auditing.attack.latent import LatentAttack
from surgery.auditing.attack.protocol import Attack, Point, Sibling, Target
from surgery.auditing.attack.relearn import WHOLE, RelearnAttack
from surgery.auditing.attack.revive import ReviveAttack
from surgery.auditing.attack.stages import FOLDS, SEEDS_OF_AN_IMAGE
from surgery.auditing.budget import counted
from surgery.auditing.drawing import Drawing
from surgery.auditing.identity import digest
from surgery.auditing.settings import AuditSettings
from surgery.auditing.units import AttackUnit, Cost
from surgery.errors import UsageError
from surgery.files import json_text, strict_json, write_atomically
from surgery.measures.similarity import Similarity, named_similarity
from surgery.model.learners import WholeDenoiser
from surgery.model.work import Work

SETTINGS = AuditSettings(
    steps=10,
    guidance=3.0,
    similarity="edges",
    selection_seeds=1,
    curve=(25,),  # of the embedding attack that `latent` begins with
    relearn_curve=(5, 10, 15, 20, 30, 40, 50),
    revive_curve=(25,),
    latent_curve=(20,),
    batch_size=32,
)
LATENT_PICTURES = 4  # each is optimized by itself, which makes them alike


@dataclass(frozen=True, kw_only=True)
class TaughtRevive(ReviveAttack):
    """`revive` with what was taught before, for all images that have the same siblings."""

    learners: Sequence[WholeDenoiser]

    def draw(self, model: Any, target: Target) -> Iterator[Point]:
        """Ask for the image, once; see `Attack.draw`."""
        yield self.asking(model, target, self.effort, self.learners)


def attack_named(name: str) -> Attack:
    """An attack of the audit, with this benchmark's budget."""
    if name == "relearn":
        drawing = Drawing(SETTINGS.steps, 1.0, SETTINGS.batch_size)
        return replace(RelearnAttack.from_settings(SETTINGS), learners=(WHOLE,), drawing=drawing)
    if name == "latent":  # the testbed's ten sampler steps fit into memory
        latent = LatentAttack.from_settings(SETTINGS)
        return replace(latent, checkpointed=False, scored_seeds=latent.scored_seeds[:LATENT_PICTURES])
    return ReviveAttack.from_settings(SETTINGS)


def targets_of(testbed: Testbed) -> dict[str, Target]:
    """Every memory as the audit attacks it: its own seed, siblings from the other thirds."""
    return {
        memory.name: Target(
            image=testbed.images[place],
            compared=testbed.compared[place],
            masks=(testbed.masks[place],),
            prompt=memory.caption,
            seed=SETTINGS.seeds_for("attack", 1, SEEDS_OF_AN_IMAGE * place)[0],
            others=tuple(testbed.ordinary),
            siblings=tuple(
                Sibling(other.caption, testbed.images[number])
                for number, other in enumerate(testbed.memories)
                if number % FOLDS != place % FOLDS
            ),
        )
        for place, memory in enumerate(testbed.memories)
    }


def attacked(
    attack: Attack, model: Any, targets: Mapping[str, Target], wanted: Sequence[str], similarity: Similarity
) -> Iterator[tuple[str, AttackUnit]]:
    """Attack the wanted memories; what `revive` teaches is taught once for all that share their siblings."""
    if not isinstance(attack, ReviveAttack):
        for name in wanted:
            yield name, attack.run(model, targets[name], similarity)[0]
        return
    together: dict[tuple[str, ...], list[str]] = {}
    for name, target in targets.items():  # the first of all teaches, whichever are wanted
        together.setdefault(tuple(one.prompt for one in target.siblings), []).append(name)
    for names in together.values():
        if not set(names) & set(wanted):
            continue
        *_, (_, learners) = attack.taught(model, targets[names[0]])
        asked = TaughtRevive(**{one.name: getattr(attack, one.name) for one in fields(attack)},
                             learners=learners)  # fmt: skip
        for name in names:
            if name in wanted:
                yield name, asked.run(model, targets[name], similarity)[0]


class Record:
    """What was measured, in a file that is written after every image.

    Args:
        file: made with the first image; one that exists is gone on from.

    Raises:
        UsageError: the file was written with other settings.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.models: dict[str, dict[str, Any]] = {}
        if file.is_file():
            document = json.loads(file.read_text())
            if document["settings"] != json.loads(json.dumps(SETTINGS.as_json())):
                raise UsageError(file, "was measured with other settings", "give another file")
            self.models = document["models"]

    def as_json(self) -> dict[str, Any]:
        """The document: model -> its weights' digest, and attack -> memory -> the unit of the audit."""
        return {"settings": SETTINGS.as_json(), "models": self.models}

    def units(self, model: str) -> Units:
        """What is known of a model."""
        known = self.models.get(model, {"attacks": {}})["attacks"]
        return {
            attack: {name: AttackUnit.from_json(unit) for name, unit in found.items()}
            for attack, found in known.items()
        }

    def keep(self, model: str, weights: str, attack: str, memory: str, unit: AttackUnit) -> None:
        """Add what one attack found, and write."""
        entry = self.models.setdefault(model, {"weights": weights, "attacks": {}})
        entry["attacks"].setdefault(attack, {})[memory] = unit.as_json()
        write_atomically(self.file, json_text(self.as_json()).encode())


def measure(record: Record, testbed: Testbed, name: str, given: str | None, wanted: Sequence[str],
            attacks: Sequence[str]) -> None:  # fmt: skip
    """Attack the wanted memories on one model, as far as the record does not hold them yet.

    Raises:
        UsageError: the record's model of that name has other weights.
    """
    model, _ = load_model(testbed, name, given)
    weights = digest(*model.denoiser.state_dict().values())
    if name in record.models and record.models[name]["weights"] != weights:
        raise UsageError(record.file, f"holds another model `{name}`", "give another file")
    targets, similarity = targets_of(testbed), named_similarity(SETTINGS.similarity)
    work, spent, started = Work(), 0, time.process_time()
    with counted(model, work):
        for attack in attacks:
            left = [one for one in wanted if one not in record.units(name).get(attack, {})]
            for memory, unit in attacked(attack_named(attack), model, targets, left, similarity):
                seconds = time.process_time() - started
                cost = Cost(work.unet_sample_forwards - spent, round(seconds, 1))
                record.keep(name, weights, attack, memory, replace(unit, cost=cost))
                spent, started = work.unet_sample_forwards, time.process_time()
                print(
                    f"{name:<10} {attack:<8} {memory:<10} {unit.score():5.2f} {seconds:4.0f} s",
                    file=sys.stderr,
                )


def arguments() -> argparse.Namespace:
    """The command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="kept here, and gone on from")
    parser.add_argument("--hardened", help="edit of the rung hardened, or UNet weights")
    parser.add_argument("--closed", help="edit of the rung closed, or UNet weights")
    parser.add_argument("--twin", default=str(TWIN), help="pipeline folder, or UNet weights")
    parser.add_argument("--models", nargs="+", default=["twin", "hardened", "closed", "zeroed"])
    parser.add_argument("--memories", nargs="+", help="names; default: all 17")
    parser.add_argument("--attacks", nargs="+", default=ATTACKS, choices=ATTACKS)
    parser.add_argument("--reuse", nargs="*", default=[], metavar="FILE", help="take models from these")
    parser.add_argument("--json", action="store_true", help="print the document instead of tables")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    import torch

    torch.set_num_threads(1)
    parsed = arguments()
    files = {"twin": parsed.twin, "hardened": parsed.hardened, "closed": parsed.closed, "zeroed": ""}
    if unknown := set(parsed.models) - files.keys():
        sys.exit(f"there is no model {unknown.pop()}; choose from {', '.join(files)}")
    testbed = load_testbed(None)  # the others are siblings
    known = [memory.name for memory in testbed.memories]
    names = parsed.memories or known
    if unknown := set(names) - set(known):
        sys.exit(f"there is no memory {unknown.pop()}; choose from {', '.join(known)}")
    record = Record(Path(parsed.output))
    reused = {name: entry for file in parsed.reuse for name, entry in Record(Path(file)).models.items()}
    for name in parsed.models:
        if name in reused:
            record.models[name] = reused[name]
        elif files[name] is not None:
            measure(record, testbed, name, files[name], names, parsed.attacks)
    if parsed.json:
        print(strict_json(record.as_json()))
    else:
        print(f"{SETTINGS.steps} drawing steps, guidance {SETTINGS.guidance:g} (`relearn`: 1)")
        print_tables({name: record.units(name) for name in parsed.models if name in record.models},
                     names, parsed.attacks, SETTINGS.similarity)  # fmt: skip


if __name__ == "__main__":
    main()
