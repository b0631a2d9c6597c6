"""What a hardening would cost, before it starts: sample-forwards by stage, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgery.corpus import collect_prompts, read_prompts
from surgery.hardening.attacked_paths import POSITIONS
from surgery.hardening.blinding import passes_of
from surgery.hardening.gate import ORDINARY_SEEDS, TIMESTEPS
from surgery.hardening.kept import EMPTY_SHARE
from surgery.hardening.ladder import CLOSED, ZEROED, trained_names
from surgery.hardening.settings import HardenSettings
from surgery.hardening.surrogates import TRIES
from surgery.hardening.targets import STAND_IN_SEEDS
from surgery.hardening.triggers import SHARES
from surgery.model.pipeline import load_pipeline
from surgery.ordinary import ordinary_besides

FLOAT_BYTES = 4
ADAM_STATES = {"adamw": 8, "adamw8bit": 2}  # bytes for each trained number


@dataclass(frozen=True)
class Forwards:
    """UNet sample-forwards, at most; the fields as in `Estimate`."""

    gather: int
    attack: int
    blinding: int
    train: int
    gate: int
    total: int


@dataclass(frozen=True)
class Estimate:
    """Upper bounds.

    Attributes:
        prompts: how many memories.
        gather: sample-forwards of the pictures drawn once.
        attack, blinding, train: of one round of the dearest rung; `backward` of them also run backward.
        gate: each time it is asked.
        total: of all rungs, if the gate holds on none.
        trained: rung -> how many numbers it trains.
        weight_bytes: rung -> bytes of SOURCE, student, gradients and optimizer, without activations.
    """

    prompts: int
    gather: int
    attack: int
    blinding: int
    train: int
    backward: int
    gate: int
    total: int
    trained: dict[str, int]
    weight_bytes: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)

    def table(self) -> str:
        """For people."""
        lines = [f"{self.prompts} memories, UNet sample-forwards at most:"]
        for name, value in (
            ("pictures, once", self.gather),
            ("attack, per round", self.attack),
            ("blinding, per round", self.blinding),
            ("training, per round", self.train),
            ("gate, each time", self.gate),
            ("all rungs", self.total),
        ):
            lines.append(f"  {name:<22} {value:>12,}")
        for rung, count in self.trained.items():
            gigabytes = self.weight_bytes[rung] / 1e9
            lines.append(f"rung `{rung}` trains {count:,} numbers; {gigabytes:.2f} GB without activations")
        return "\n".join(lines)


def estimate(
    source: Any,
    prompts: str | Path | Sequence[str],
    settings: HardenSettings | None = None,
    device: str | None = None,
    dtype: str | None = None,
    ordinary_file: str | Path | None = None,
) -> Estimate:
    """Count what `surgery.hardening.harden.harden` would do with these inputs.

    Raises:
        UsageError: the prompts or the ordinary ones cannot be read, or the model is not understood.
    """
    settings = settings or HardenSettings()
    corpus = read_prompts(prompts) if isinstance(prompts, str | Path) else collect_prompts(prompts)
    model = load_pipeline(source, device, dtype)
    ordinary_besides(corpus.prompts, model.source, ordinary_file)  # a dry run refuses what the run would
    denoiser = model.denoiser
    count = len(corpus.prompts)
    costs = sample_forwards(settings, count, len(passes_of(denoiser)))
    trained, weight_bytes = {}, {}
    every = sum(parameter.numel() for parameter in denoiser.parameters())
    for rung in settings.rungs:
        names = set() if rung == ZEROED else set(trained_names(denoiser, rung))
        trained[rung] = sum(
            parameter.numel() for name, parameter in denoiser.named_parameters() if name in names
        )
        weight_bytes[rung] = 2 * FLOAT_BYTES * every + trained[rung] * (
            FLOAT_BYTES + ADAM_STATES[settings.optimizer]
        )
    return Estimate(
        count,
        costs.gather,
        costs.attack,
        costs.blinding,
        costs.train,
        costs.attack + costs.train,
        costs.gate,
        costs.total,
        trained,
        weight_bytes,
    )


def sample_forwards(settings: HardenSettings, count: int, passes: int = 1) -> Forwards:
    """The UNet sample-forwards of hardening against `count` memories; no model is loaded.

    Args:
        passes: of blinding, each over as many layers as memory allows (`surgery.hardening.blinding`). Large
            denoisers need more than one.
    """
    one = settings.drawing().forwards(1)
    paths = round((1 + EMPTY_SHARE) * (settings.ordinary + count * settings.neighbors)) + 1
    gather = one * (count * STAND_IN_SEEDS + settings.gate_controls) + settings.positions * (
        paths + count * ((1 + TRIES) * settings.surrogates + 1)
    )
    gather += 2 * 2 * len(SHARES) * count  # of the rows, and of the prompts that no row resolves
    attack = count * settings.attack_batch * (settings.embedding_steps + settings.output_steps)
    looking = count * (2 * settings.positions + 3 * POSITIONS)  # recall, and the paths under attack
    a_step = 2 * settings.batch + settings.keep_batch
    train = {
        rung: a_step * settings.steps_of(rung) + settings.keep_batch * settings.repairs_of(rung)
        for rung in settings.rungs
        if rung != ZEROED
    }
    blinding = 3 * settings.blinding_states * passes if settings.blinding else 0
    attacked = count + settings.gate_controls
    drawn = sum(settings.drawing(guidance).forwards(1) for guidance in settings.gate_guidance)
    gate = (
        attacked
        * (
            settings.attack_batch * (settings.gate_embedding + settings.gate_output)
            + 2 * drawn * settings.gate_seeds
        )
        + 4 * TIMESTEPS * len(ORDINARY_SEEDS) * settings.gate_ordinary
    )
    total = gather
    for rung in settings.rungs:
        asked = 1 if rung == ZEROED else max(1, settings.rounds - settings.first_gate + 1)
        total += asked * gate
        if rung != ZEROED:
            half = settings.embedding_steps / (settings.embedding_steps + settings.output_steps)
            every_round = train[rung] + looking
            every_round += round(attack * half) if rung == CLOSED else attack + blinding
            total += settings.rounds * every_round
    most = max(train.values(), default=0)
    return Forwards(gather, attack + looking, blinding, most, gate, total)
