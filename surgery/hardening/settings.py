"""Everything that a hardening depends on, in one frozen object that is written into the edit.

The command line takes its options, defaults and help from here, so nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.auditing.drawing import Drawing
from surgery.errors import UsageError
from surgery.options import check_settings, setting

RUNGS = ("zeroed", "closed", "hardened")
OPTIMIZERS = ("adamw", "adamw8bit")
LADDER, LOOP, TRAINING, GATE, DEVICE = "ladder", "attacks in the loop", "training", "gate", "device"


@dataclass(frozen=True)
class HardenSettings:
    """The settings of one hardening; what each means stands beside it.

    Raises:
        UsageError: a value makes no sense.
    """

    rungs: tuple[str, ...] = setting(
        ("zeroed", "hardened"),
        "what to try, in this order, until the gate holds; `closed` trains cross-attention alone",
        group=LADDER,
        metavar="NAME,NAME,...",
        choices=RUNGS,
    )
    rounds: int = setting(4, "rounds of attack and training per rung", group=LADDER, metavar="N", least=1)
    first_gate: int = setting(
        2, "the round after which the gate is first asked", group=LADDER, metavar="N", least=1
    )
    max_change: float = setting(
        0.07, "largest change of ordinary prompts, in units of a seed's", group=LADDER, metavar="C"
    )
    seed: int = setting(0, "of everything", group=LADDER, metavar="N", least=0)
    embedding_steps: int = setting(
        32, "embedding attack per image and round", group=LOOP, metavar="N", least=1
    )
    output_steps: int = setting(
        16, "output attack per image and round; 0 leaves it out", group=LOOP, metavar="N", least=0
    )
    attack_batch: int = setting(4, "noised copies per step and image", group=LOOP, metavar="N", least=1)
    pool: int = setting(8, "latest attacks of an image that training uses", group=LOOP, metavar="N", least=1)
    trigger_rounds: int = setting(
        1,
        "first rounds that train against the triggers alone: no attack is needed",
        group=LOOP,
        metavar="N",
        least=0,
    )
    trigger_share: float = setting(
        0.4,
        "share of trained output samples that are triggers; 0: no triggers at all",
        group=LOOP,
        metavar="S",
    )
    blinding: float = setting(
        0.012,
        "weight of attacked states when layers are made blind to them in closed form; 0 leaves it out",
        group=TRAINING,
        metavar="W",
    )
    blinding_states: int = setting(
        768, "kept states, and attacked ones, from which it is solved", group=TRAINING, metavar="N", least=1
    )
    steps: int = setting(
        60, "training steps per round where layers are not made blind", group=TRAINING, metavar="N", least=0
    )
    repair_steps: int = setting(
        40,
        "training steps on what must stay alone, before the attacks of every round but the first",
        group=TRAINING,
        metavar="N",
        least=0,
    )
    repair_rate: float = setting(
        3e-5, "of AdamW in these steps, falling in each round", group=TRAINING, metavar="RATE"
    )
    further_steps: int = setting(
        0,
        "training steps per round against attacks after layers were made blind",
        group=TRAINING,
        metavar="N",
        least=0,
    )
    batch: int = setting(14, "samples of each attacked term and step", group=TRAINING, metavar="N", least=1)
    keep_batch: int = setting(
        24, "samples per step of what must stay as it is", group=TRAINING, metavar="N", least=1
    )
    rate: float = setting(2e-4, "of AdamW, falling in each round", group=TRAINING, metavar="RATE")
    keep: float = setting(10.0, "weight of what must stay as it is", group=TRAINING, metavar="W")
    image_share: float = setting(
        0.4, "share of attacked samples on the image itself, not on a surrogate", group=TRAINING, metavar="S"
    )
    focus: float = setting(
        8.0, "further weight of an error that leads toward the image", group=TRAINING, metavar="W"
    )
    noisy_weight: float = setting(
        0.8,
        "0: errors weigh the same at all timesteps; 1: by the inverse of the squared difference that a seed "
        "makes there",
        group=TRAINING,
        metavar="P",
    )
    averaged: float = setting(
        0.5, "share of a round's last steps whose weights are averaged", group=TRAINING, metavar="S"
    )
    surrogates: int = setting(
        4, "paths per prompt that stand for what it should draw", group=TRAINING, metavar="N", least=1
    )
    positions: int = setting(
        16, "states of each path, and noised copies of each image", group=TRAINING, metavar="N", least=2
    )
    ordinary: int = setting(
        160, "ordinary prompts that must stay as they are", group=TRAINING, metavar="N", least=1
    )
    neighbors: int = setting(
        4,
        "prompts per memory of the same words and another meaning, kept too",
        group=TRAINING,
        metavar="N",
        least=0,
    )
    drawing_steps: int = setting(20, "denoising steps of all pictures", group=TRAINING, metavar="N", least=1)
    optimizer: str = setting("adamw", "of the weights", group=TRAINING, metavar="NAME", choices=OPTIMIZERS)
    checkpointing: bool = setting(False, "gradient checkpointing: less memory, more time", group=TRAINING)
    gate_embedding: int = setting(
        100, "steps of the held-out embedding attack", group=GATE, metavar="N", least=1
    )
    gate_output: int = setting(50, "steps of the held-out output attack", group=GATE, metavar="N", least=1)
    gate_controls: int = setting(
        6, "never-seen pictures that are attacked beside", group=GATE, metavar="N", least=1
    )
    gate_ordinary: int = setting(
        16, "ordinary prompts, and neighbors, whose change is measured", group=GATE, metavar="N", least=1
    )
    gate_margin: float = setting(
        0.1, "how far an image may score above the highest control", group=GATE, metavar="S"
    )
    gate_seeds: int = setting(4, "pictures per image, attack and guidance", group=GATE, metavar="N", least=1)
    gate_guidance: tuple[float, ...] = setting((1.0, 3.0), "of these pictures", group=GATE, metavar="G,G,...")
    batch_size: int = setting(
        32, "samples per UNet call, at most; no result depends on it beyond rounding",
        group=DEVICE, metavar="N", least=1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.rungs or sorted(set(self.rungs), key=RUNGS.index) != list(self.rungs):
            raise UsageError(
                "rungs", f"{','.join(self.rungs)} do not rise", f"give some of {','.join(RUNGS)}"
            )
        for name in ("image_share", "trigger_share", "noisy_weight", "averaged"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(name.replace("_", "-"), "is no share", "give a number from 0 to 1")
        for name in ("rate", "repair_rate", "keep", "max_change"):
            if getattr(self, name) <= 0:
                raise UsageError(name.replace("_", "-"), "is not positive", "give a number above 0")
        for name in ("focus", "blinding"):
            if getattr(self, name) < 0:
                raise UsageError(name, "is negative", "give 0 for none")
        if min(self.gate_guidance, default=0) < 1:
            raise UsageError("gate-guidance", "is no guidance", "try 1,3")

    def blinds(self, rung: str) -> bool:
        """Whether a rung makes layers blind; `closed` leaves most of them alone."""
        return rung == "hardened" and self.blinding > 0

    def steps_of(self, rung: str) -> int:
        """Training steps per round of a rung."""
        return self.further_steps if self.blinds(rung) else self.steps

    def repairs_of(self, rung: str) -> int:
        """Training steps per round of a rung that repair what blinding changed elsewhere."""
        return self.repair_steps if self.blinds(rung) else 0

    def drawing(self, guidance: float = 1.0) -> Drawing:
        """How pictures are drawn."""
        return Drawing(self.drawing_steps, guidance, self.batch_size)

    def as_json(self) -> dict[str, Any]:
        """Every setting by name."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }
