"""Everything that an audit's numbers depend on, in one frozen object that is written into `audit.json`.

The command line takes its options, defaults and help from here (see `surgery.options`), so nothing heavy is
imported.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.auditing.attack.registry import ATTACKS
from surgery.auditing.drawing import Drawing
from surgery.auditing.judgement.corrections import CORRECTIONS
from surgery.errors import UsageError
from surgery.options import check_settings, setting

GATES = ("replication", "attack")
JUDGING = ("tolerance", "alpha", "correction")  # what may change without measuring anew
STANDARD = ("embedding", "output")  # what `--attack` alone stands for
SCORED_PICTURES = 8  # the fewest over which a 90th percentile is one
CURVES = ("curve", "output_curve", "latent_curve", "relearn_curve", "revive_curve")
DRAWING, ORDINARY, ATTACK, DEVICE = "drawing and comparing", "ordinary prompts", "attack", "device"
# their order fixes the seeds: new uses come last
SEED_USES = ("replication", "stand-ins", "ordinary", "attack", "controls", "selection", "scored", "canaries")
SEED_GAP = 100_000  # between the first seeds of different uses


@dataclass(frozen=True)
class AuditSettings:
    """The settings of one audit; what each means stands beside it.

    Raises:
        UsageError: a value makes no sense.
    """

    seeds: int = setting(10, "fresh seeds per prompt", group=DRAWING, metavar="N", least=2)
    more_seeds: int = setting(
        30,
        "further seeds for prompts that SOURCE replicates on none",
        group=DRAWING,
        metavar="N",
        least=0,
    )
    first_seed: int = setting(
        2_000_000,
        "they count up from here, far from the seeds of localization",
        group=DRAWING,
        metavar="N",
    )
    steps: int = setting(50, "denoising steps", group=DRAWING, metavar="N", least=1)
    guidance: float = setting(7.5, "classifier-free guidance, 1 for none", group=DRAWING, metavar="G")
    similarity: str = setting(
        "auto", "measure without weights, see docs/audit.md", group=DRAWING, metavar="NAME"
    )
    sscd: str | None = setting(
        None,
        "use SSCD instead: a TorchScript or ONNX file, or 'immaculate'",
        group=DRAWING,
        metavar="FILE",
        unset="off",
    )
    threshold: float | None = setting(
        None,
        "similarity from which a picture is a replica",
        group=DRAWING,
        metavar="S",
        unset="the measure's own",
    )
    raw_images: bool = setting(False, "compare without the autoencoder's round trip", group=DRAWING)
    tolerance: float = setting(
        0.05,
        "largest share of seeds that may replicate before a prompt still replicates",
        group=DRAWING,
        metavar="SHARE",
    )
    ordinary: int = setting(
        32, "how many are looked at", group=ORDINARY, flag="--ordinary-count", metavar="N", least=0
    )
    ordinary_seeds: int = setting(
        4, "seeds at which predictions are compared", group=ORDINARY, metavar="N", least=2
    )
    ordinary_pictures: int = setting(
        2, "how many of these seeds are drawn as pictures", group=ORDINARY, metavar="N", least=1
    )
    timesteps: int = setting(
        8,
        "timesteps along the path at which predictions are compared",
        group=ORDINARY,
        flag="--ordinary-timesteps",
        metavar="N",
        least=1,
    )
    attack: tuple[str, ...] = setting(
        (),
        f"the attacks to run; named alone: {','.join(STANDARD)}",
        group=ATTACK,
        metavar="NAME,NAME,...",
        choices=ATTACKS,
        bare=STANDARD,
    )
    selection_seeds: int = setting(
        2, "pictures that choose the best point of an attack", group=ATTACK, metavar="N", least=1
    )
    attack_seeds: int = setting(
        8, "other pictures, that are scored", group=ATTACK, metavar="N", least=SCORED_PICTURES
    )
    attack_guidance: tuple[float, ...] = setting(
        (1.0, 3.0), "of pictures drawn, beside the pipeline's own", group=ATTACK, metavar="G,G,..."
    )
    attack_batch: int = setting(8, "noised copies per step", group=ATTACK, metavar="N", least=1)
    restarts: int = setting(
        4,
        "embedding: from the prompt, Gaussian noise, another prompt, a sibling's, and so on",
        group=ATTACK,
        metavar="N",
        least=1,
    )
    learning_rate: float = setting(0.1, "embedding: of Adam", group=ATTACK, metavar="RATE")
    curve: tuple[int, ...] = setting(
        (0, 10, 25, 50),
        "embedding: draw after so many steps; the last ends it",
        group=ATTACK,
        metavar="N,N,...",
    )
    output_curve: tuple[int, ...] = setting(
        (0, 10, 25, 50), "output: the same", group=ATTACK, metavar="N,N,..."
    )
    latent_curve: tuple[int, ...] = setting((0, 10, 20), "latent: the same", group=ATTACK, metavar="N,N,...")
    relearn_curve: tuple[int, ...] = setting(
        (0, 5, 10, 20, 40),
        "relearn: draw after so many steps of fine-tuning",
        group=ATTACK,
        metavar="N,N,...",
    )
    revive_curve: tuple[int, ...] = setting((0, 25), "revive: the same", group=ATTACK, metavar="N,N,...")
    controls: int = setting(
        24, "control images that SOURCE makes where none are given", group=ATTACK, metavar="N", least=0
    )
    canaries: int = setting(
        0,
        "pictures taught to SOURCE to see whether the attacks find them",
        group=ATTACK,
        metavar="N",
        least=0,
    )
    alpha: float = setting(0.05, "level of the tests", group=ATTACK, metavar="P")
    correction: str = setting(
        "benjamini-hochberg",
        "for testing many prompts at once",
        group=ATTACK,
        metavar="NAME",
        choices=CORRECTIONS,
    )
    batch_size: int = setting(
        16,
        "samples per UNet call, at most; no result depends on it beyond rounding",
        group=DEVICE,
        metavar="N",
        least=1,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.ordinary_pictures > self.ordinary_seeds:
            raise UsageError("ordinary-pictures", "are more than the ordinary seeds", "give fewer")
        if not 0 <= self.tolerance < 1:
            raise UsageError("tolerance", f"{self.tolerance} is not a share below 1", "give 0 to 0.99")
        if not 0 < self.alpha < 0.5:
            raise UsageError("alpha", f"{self.alpha} is no level of a test", "give a number such as 0.05")
        for name in CURVES:
            curve = list(getattr(self, name))
            if not curve or curve != sorted(set(curve)) or curve[0] < 0:
                raise UsageError(
                    name.replace("_", "-"), f"{curve} does not rise from 0 or more", "try 0,10,50"
                )
        if not self.attack_guidance or min(self.attack_guidance) < 1:
            raise UsageError("attack-guidance", f"{list(self.attack_guidance)} are no guidances", "try 1,3")
        if self.learning_rate <= 0:
            raise UsageError("learning-rate", f"{self.learning_rate} is not positive", "try 0.1")

    @property
    def audit_seeds(self) -> list[int]:
        """The seeds of replication."""
        return self.seeds_for("replication", self.seeds)

    @property
    def further_seeds(self) -> list[int]:
        """The seeds after them, for prompts that SOURCE replicates on none."""
        return self.seeds_for("replication", self.more_seeds, self.seeds)

    def seeds_for(self, use: str, count: int, skipped: int = 0) -> list[int]:
        """`count` seeds for one of `SEED_USES`, after the first `skipped`: no use meets another's."""
        first = self.first_seed + SEED_USES.index(use) * SEED_GAP + skipped
        return list(range(first, first + count))

    def drawing(self) -> Drawing:
        """How pictures of prompts are drawn."""
        return Drawing(self.steps, self.guidance, self.batch_size)

    def as_json(self) -> dict[str, Any]:
        """Every setting by name."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    def guidances(self) -> tuple[float, ...]:
        """The guidances at which attacked pictures are drawn, the pipeline's own among them."""
        return tuple(sorted({*self.attack_guidance, self.guidance}))

    def measured_with(self) -> dict[str, Any]:
        """The settings that measurements depend on: a resumed audit must agree in all of them."""
        return {name: value for name, value in self.as_json().items() if name not in JUDGING}
