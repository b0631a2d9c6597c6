"""Every setting of localization; published defaults (NeMo, arXiv 2406.02366) unless said otherwise.

Each field says its own help, least value and choices (`surgery.options`). Imports no torch: `--help` reads
it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from surgery.denoisers import BLOCKS, PROJECTIONS, PUBLISHED_BLOCKS
from surgery.errors import UsageError
from surgery.localization import registry
from surgery.options import check_settings, setting

STRATEGIES = ("fast", "reference")
SELECTIONS = ("z-score", "attribution")
SCORE_PROMPTS = 64  # how many ordinary prompts run through the denoiser in a calibration
# These decide which numbers come out of the denoiser, so a calibration holds only where they agree.
CALIBRATION_FIELDS = ("seeds", "seed", "inference_steps", "step_index", "guidance", "projection")
CONFIRMATION_FIELDS = ("confirm_seeds", "confirm_seed")

# Headings of the help texts.
CALIBRATION = "calibration"
METHOD = "method (published defaults unless said otherwise)"
CONFIRMATION = "confirmation on fresh seeds"
SECOND_LOOK = "second look at prompts that pass the gate"
SCORING = "scoring"
ONE_SET = "from prompts to one set (default: union over the localized prompts)"
JOINT = "one mask for the corpus, searched jointly"
# These say what becomes of the records, not what the records are.
AFTER_THE_RECORDS = (
    "joint",
    "joint_seeds",
    "joint_steps",
    "joint_guidance",
    "max_neurons",
    "max_change",
)


@dataclass(frozen=True)
class LocalizeSettings:
    """What `localize` does; two runs with equal settings on one model find the same neurons.

    What a field means is said by its help. Of those that need more:

    - criterion: see `surgery.localization.criteria`.
    - strategy: both find the same; see `surgery.localization.one_prompt`.
    - relative_refinement: takes the place of the refinement threshold.
    - theta, top_k: see `surgery.localization.search.selection`.
    - guidance: None scores the conditional prediction alone.
    - step_index: 1 is the second timestep, as in the published code.
    - confirm_seed: must differ from `seed`.
    - second_look, false_discovery_rate: see `surgery.localization.second_look`.
    - selection, joint: see `surgery.localization.joint.attributed` and `surgery.localization.joint`.
    - confirm_pictures: see `surgery.localization.confirmation`; none where confirm_seeds is 0.
    - include_unresolved: without it, unresolved prompts are not refined either.
    """

    criterion: str = setting(
        registry.DEFAULT,
        "when a memory counts as broken (published: noise-changed)",
        group=METHOD,
        metavar="NAME",
        choices=registry.CRITERIA,
    )
    strategy: str = setting(
        "fast",
        "how to search; reference is the published loop step by step",
        group=METHOD,
        metavar="NAME",
        choices=STRATEGIES,
    )
    seeds: int = setting(10, "latents that a prompt is judged on", group=SCORING, metavar="N", least=2)
    seed: int = setting(
        1, "generator seed that these latents are drawn with", group=SCORING, metavar="N", least=0
    )
    cutoff: float | None = setting(
        None,
        "thresholds = ordinary mean + N standard deviations",
        group=CALIBRATION,
        metavar="N",
        unset="each criterion's own",
    )
    gate_threshold: float | None = setting(
        None, "a prompt that scores higher is memorized", group=METHOD, metavar="SCORE", unset="calibrated"
    )
    selection_threshold: float | None = setting(
        None,
        "the initial set must bring the score down to it",
        group=METHOD,
        metavar="SCORE",
        unset="calibrated",
    )
    refinement_threshold: float | None = setting(
        None, "the refined set must stay below it", group=METHOD, metavar="SCORE", unset="calibrated"
    )
    relative_refinement: float | None = setting(
        None,
        "refinement threshold = F x the score with all neurons off",
        group=METHOD,
        metavar="F",
        least=0,
        unset="off",
    )
    theta_start: float = setting(
        5.0, "z-score threshold of the first selection step", group=METHOD, metavar="Z"
    )
    theta_step: float = setting(
        0.25, "what the z-score threshold falls by from step to step", group=METHOD, metavar="Z"
    )
    theta_minimum: float = setting(
        1.0, "where the z-score threshold ends", group=METHOD, metavar="Z", least=0
    )
    use_theta: bool = setting(True, "do not select by z-score", group=METHOD, flag="--no-theta")
    top_k_start: int = setting(
        0,
        "most active neurons of each layer that the first selection step adds; one more each step",
        group=METHOD,
        metavar="N",
        least=0,
    )
    top_k_maximum: int = setting(
        1280, "the most that a step adds of each layer", group=METHOD, metavar="N", least=1
    )
    use_top_k: bool = setting(True, "do not add the most active neurons", group=METHOD, flag="--no-top-k")
    scaling_factor: float = setting(
        0.0, "what ablated outputs are multiplied with; 0 switches them off", group=METHOD, metavar="F"
    )
    guidance: float | None = setting(
        None, "classifier-free guidance scale in the scores", group=SCORING, metavar="F", unset="off"
    )
    inference_steps: int = setting(
        50, "steps of the scheduler, which fix its timesteps", group=SCORING, metavar="N", least=1
    )
    step_index: int = setting(
        1, "which of the timesteps is scored, from 0", group=SCORING, metavar="N", least=0
    )
    projection: str = setting(
        "value",
        "search the key layers instead of the value layers",
        group=SCORING,
        flag="--key-layers",
        constant="key",
        choices=tuple(PROJECTIONS),
    )
    blocks: tuple[str, ...] = setting(
        PUBLISHED_BLOCKS,
        "blocks of the denoiser to search",
        group=METHOD,
        metavar="BLOCK",
        choices=BLOCKS,
    )
    confirm_seeds: int = setting(
        10,
        "fresh seeds that the refined set is checked on; 0: no check",
        group=CONFIRMATION,
        metavar="N",
        least=0,
    )
    confirm_seed: int = setting(
        1_000_003,
        "generator seed that the fresh latents are drawn with",
        group=CONFIRMATION,
        metavar="N",
        least=0,
    )
    second_look: bool = setting(
        True,
        "search every prompt that passes the gate at once, as the reference strategy does",
        group=SECOND_LOOK,
        flag="--no-second-look",
    )
    false_discovery_rate: float = setting(
        0.01,
        "of the prompts that count as memorized, the share expected to be ordinary ones",
        group=SECOND_LOOK,
        metavar="Q",
        least=0,
    )
    confirm_pictures: int = setting(
        6,
        "pictures of a memorized prompt with the final set off, at the pipeline's own guidance; 0: none",
        group=CONFIRMATION,
        metavar="N",
        least=0,
    )
    include_unresolved: bool = setting(
        False, "refine the sets of unresolved prompts, and take them in too", group=ONE_SET
    )
    selection: str = setting(
        "z-score",
        "what orders the candidates where no z-score reaches the first theta's",
        group=METHOD,
        metavar="NAME",
        choices=SELECTIONS,
    )
    joint: bool = setting(False, "search one mask that breaks all memories together", group=JOINT)
    joint_seeds: int = setting(
        4, "seeds that each prompt is judged on in the joint search", group=JOINT, metavar="N", least=1
    )
    joint_steps: int = setting(4, "sampler steps of its pictures", group=JOINT, metavar="N", least=1)
    joint_guidance: float | None = setting(
        None, "classifier-free guidance of its pictures", group=JOINT, metavar="F", unset="off"
    )
    max_neurons: int | None = setting(
        None, "give up prompts until so many neurons do", group=JOINT, metavar="N", least=1, unset="no limit"
    )
    max_change: float | None = setting(
        None,
        "give up prompts until the ordinary change, in seeds, is no more",
        group=JOINT,
        metavar="F",
        least=0,
        unset="no limit",
    )
    spot_checks: bool = setting(True, "trust every answer that the fast strategy inferred", group=METHOD)
    batch_size: int = setting(
        32,
        "most samples in a UNet call; does not change the result",
        group=SCORING,
        metavar="N",
        least=1,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        check_settings(self)
        if not self.blocks:
            raise UsageError("blocks", "none is named", f"name some of {', '.join(BLOCKS)}")
        if self.theta_step <= 0:
            raise UsageError("theta-step", f"{self.theta_step} does not descend", "give a step above 0")
        if self.theta_start < self.theta_minimum:
            raise UsageError(
                "theta-start", f"{self.theta_start} lies below the minimum {self.theta_minimum}", "raise it"
            )
        if not (self.use_theta or self.use_top_k):
            raise UsageError(
                "no-theta, no-top-k", "together leave no way to select neurons", "drop one of them"
            )
        if self.confirm_seeds and self.confirm_seed == self.seed:
            raise UsageError(
                "confirm-seed", f"{self.seed} is the seed of the search", "fresh seeds need another one"
            )
        if self.selection == "attribution" and self.strategy == "reference":
            raise UsageError(
                "selection", "the published loop knows no attribution", "drop --strategy reference"
            )
        for name, value in (("max-neurons", self.max_neurons), ("max-change", self.max_change)):
            if value is not None and not self.joint:
                raise UsageError(name, "limits the joint mask, and none is searched", "add --joint")
        if self.joint and self.projection != "value":
            raise UsageError("joint", "chooses value rows, and key layers are asked for", "drop one of them")
        if self.confirm_seeds == 1:
            raise UsageError(
                "confirm-seeds", "one seed has no pair to be compared with", "give 0, or at least 2"
            )

        if not 0 < self.false_discovery_rate < 1:
            raise UsageError(
                "false-discovery-rate", f"{self.false_discovery_rate} is no share", "give one between 0 and 1"
            )

    def as_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**asdict(self), "blocks": list(self.blocks)}

    def for_calibration(self) -> dict[str, Any]:
        """The settings that a calibration depends on."""
        return {name: getattr(self, name) for name in (*CALIBRATION_FIELDS, *CONFIRMATION_FIELDS)}
