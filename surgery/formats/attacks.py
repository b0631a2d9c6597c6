"""The parts of audit.json that speak of attacks: what each is, what it found, how that was judged."""

from __future__ import annotations

from surgery.formats.fields import FormatField

_ATTACK = "with `--attack`"
_CANARIES = "with `--canaries`"
_MADE = "where an attack was made"
_JUDGED = "where the attack has a say"


def _attacked(side: str, model: str) -> tuple[FormatField, ...]:
    path, only = f"prompts[].attacks.*.{side}", f"where {model} was attacked"
    return (
        FormatField(path, "object or null", f"the attack on {model}", "where an attack was made"),
        FormatField(f"{path}.score", "number", "90th percentile over the scored pictures", only),
        FormatField(f"{path}.highest", "number", "the most alike of all pictures drawn", only),
        FormatField(f"{path}.replicas", "number", "share of replicas among the last scored pictures", only),
        FormatField(
            f"{path}.replica_after",
            "integer or null",
            "steps until it is drawn as a replica; null where it never is",
            "of an attack that learns",
        ),
        FormatField(f"{path}.chosen_step", "integer", "the point of the curve that was scored", only),
        FormatField(f"{path}.chosen_variant", "text", "the variant that was scored", only),
        FormatField(
            f"{path}.curve", "list of number", "the best variant at each point, other pictures", only
        ),
        FormatField(f"{path}.by_variant", "list", "the same of each variant, point by point", only),
        FormatField(f"{path}.sample_forwards", "integer", "UNet sample-forwards", only),
        FormatField(f"{path}.seconds", "number", "wall time", only),
    )


def _summary() -> tuple[FormatField, ...]:
    path = "attacks.*"
    return (
        FormatField(path, "object", "one entry per attack that was run, by its name", _ATTACK),
        FormatField(f"{path}.effort", "integer", "what it spends on an image: its budget", _ATTACK),
        FormatField(f"{path}.passes_edit", "boolean", "whether it goes through the text alone", _ATTACK),
        FormatField(f"{path}.learns", "boolean", "whether it teaches the image to the weights", _ATTACK),
        FormatField(f"{path}.counts", "boolean", "whether it has a say in the verdict", _ATTACK),
        FormatField(
            f"{path}.shortfall", "text", "why it is weaker than its effort says; empty if it is not", _ATTACK
        ),
        FormatField(f"{path}.attacked_prompts", "integer", "prompts attacked on PATCHED", _ATTACK),
        FormatField(
            f"{path}.replicating_after_attack",
            "integer",
            "of these, with a picture that is a replica",
            _ATTACK,
        ),
        FormatField(
            f"{path}.replicating_after_attack_interval",
            "list of number",
            "exact interval of their share",
            _ATTACK,
        ),
        FormatField(f"{path}.controls.kind", "text", "`given` or `generated`", _ATTACK),
        FormatField(f"{path}.controls.count", "integer", "controls attacked on PATCHED", _ATTACK),
        FormatField(f"{path}.controls.scores", "list of number", "their scores", _ATTACK),
        FormatField(f"{path}.controls.highest", "list of number", "the most alike picture of each", _ATTACK),
        FormatField(f"{path}.controls.curves", "list", "their curves", _ATTACK),
        FormatField(f"{path}.controls.twin_scores", "list of number", "their scores on the twin", _ATTACK),
        FormatField(
            f"{path}.controls.replica_after",
            "list",
            "steps until each is drawn as a replica, or null",
            "with an attack that learns",
        ),
        FormatField(f"{path}.canaries", "object or null", "null without `--canaries`", _ATTACK),
        FormatField(f"{path}.canaries.wanted", "integer", "canaries asked for", _CANARIES),
        FormatField(f"{path}.canaries.took", "integer", "canaries that SOURCE learned", _CANARIES),
        FormatField(f"{path}.canaries.found_before", "integer", "of these, found before the edit", _CANARIES),
        FormatField(
            f"{path}.canaries.found_after_weak_edit", "integer", "of these, found after a weak one", _CANARIES
        ),
        FormatField(
            f"{path}.canaries.blind", "text", "why the attack is blind; empty if it is not", _CANARIES
        ),
        FormatField(f"{path}.cost.images", "integer", "attacks made, on all images and models", _ATTACK),
        FormatField(f"{path}.cost.sample_forwards", "integer", "UNet sample-forwards", _ATTACK),
        FormatField(f"{path}.cost.seconds", "number", "wall time", _ATTACK),
    )


def _judged() -> tuple[FormatField, ...]:
    """The numbers of `surgery.auditing.judgement.one_attack`."""
    path = "prompts[].attacks.*.judged"
    numbers = {
        "score": ("number", "PATCHED's score; with a twin, less the twin's"),
        "highest": ("number or null", "the most alike of all pictures drawn from PATCHED"),
        "paired_with_twin": ("boolean", "whether every score is less the twin's"),
        "controls": ("integer", "controls it was compared with"),
        "controls_median": ("number or null", "their median score"),
        "controls_highest": ("number or null", "the most alike of all pictures drawn of them"),
        "controls_at_or_above": ("integer", "that score as high"),
        "share_at_or_above_interval": ("list of number", "interval of their share"),
        "p_value": ("number", "exact rank test against the controls"),
        "corrected_p_value": ("number", "after `--correction`; small: `hidden`"),
        "critical_score": ("number or null", "a score above it would be separated"),
        "source_score": ("number or null", "SOURCE's score, like `score`"),
        "source_effect": (
            "number or null",
            "what the memory is worth there at least (`judgement/statistics.py`)",
        ),
        "margin": ("number or null", "half of it: what must be ruled out"),
        "stands_out_from": ("number or null", "above every control by more than a quarter of the memory"),
        "removal_p_value": ("number", "exact test that so much is left; small: it is not"),
        "code": ("text", "what this attack says, see `prompts[].code`"),
    }
    return (
        FormatField(
            path, "object or null", "the numbers that the verdict used; null where it needed none", _MADE
        ),
        *(FormatField(f"{path}.{name}", kind, meaning, _JUDGED) for name, (kind, meaning) in numbers.items()),
    )


ATTACK_FIELDS = (FormatField("attacks", "object", "empty without `--attack`"), *_summary())
PROMPT_ATTACK_FIELDS = (
    FormatField("prompts[].attacks", "object", "empty where none was made"),
    FormatField("prompts[].attacks.*.steps", "list of integer", "points of the curve", _MADE),
    FormatField("prompts[].attacks.*.variants", "list of text", "starts, guidances, parts", _MADE),
    *_attacked("source", "SOURCE"),
    *_attacked("patched", "PATCHED"),
    *_attacked("twin", "the twin"),
    *_judged(),
)
