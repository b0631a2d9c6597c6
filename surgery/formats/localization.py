"""What `localize` writes: neurons.json and its journal."""

from __future__ import annotations

from dataclasses import replace

from surgery.formats.fields import (
    CORPUS_FIELDS,
    Format,
    FormatField,
    fingerprint_fields,
    score_fields,
    work_fields,
)

_SEARCHED = "where the prompt was searched"
_FAST = "with `--strategy fast`"
_GROUP = "where the search was by group tests"

_JOINT = "with `--joint`"
_JUDGED = "with `--joint`, where its seeds share a picture"
JOINT_RECORD = (
    FormatField("joint", "object", "what the joint mask does to the prompt", _JOINT),
    FormatField("joint.broken", "boolean or null", "whether it breaks the memory; null: not judged", _JOINT),
    FormatField(
        "joint.against",
        "text",
        "`training image` or `own replica`: what its pictures are compared with",
        _JOINT,
    ),
    FormatField("joint.own", "number", "how alike the source's own pictures are, seed by seed", _JOINT),
    FormatField("joint.level", "number", "the highest score of an ordinary prompt's picture", _JOINT),
    FormatField("joint.threshold", "number", "no seed of a broken prompt scores above it", _JUDGED),
    FormatField("joint.fresh", "number or null", "the highest score on fresh seeds", _JUDGED),
    FormatField(
        "joint.needs.*",
        "list of integer",
        "layer -> rows: the part of the complete mask that breaks this memory by itself; none if none does",
        _JUDGED,
    ),
)
JOINT_MASK = (
    FormatField("joint.prompts", "integer", "memorized prompts", _JOINT),
    FormatField("joint.judged", "integer", "of these, prompts whose seeds share a picture", _JOINT),
    FormatField("joint.broken", "integer", "prompts that the mask breaks", _JOINT),
    FormatField("joint.neurons", "integer", "neurons of the mask", _JOINT),
    *(
        FormatField(f"joint.{name}", kind, meaning, "with `--joint`, where a prompt is memorized")
        for name, kind, meaning in (
            ("complete", "integer", "neurons of the mask before the budget"),
            ("grown", "integer", "neurons of the mask before any was released"),
            ("union", "integer", "neurons of the prompts' own sets together, unresolved ones too"),
            ("change", "number", "the measured ordinary change, in seeds"),
            ("estimated_change", "number", "the estimate of it"),
            ("ordinary_prompts", "integer", "how many prompts both are of"),
            ("evaluations", "integer", "tests of one prompt with one set off"),
            ("most_evaluations", "integer", "prompts x (log2 of the complete mask + 2), to compare"),
            ("attributions", "integer", "attributions of one prompt with one set off"),
            ("frontier", "list", "masks of more and more prompts, cheapest first"),
            ("frontier[].neurons", "integer", "neurons"),
            ("frontier[].prompts", "integer", "prompts that it breaks, at least"),
            ("frontier[].estimated_change", "number", "the estimated ordinary change"),
        )
    ),
    *(replace(one, only=_JOINT) for one in work_fields("joint.work", "the joint search")),
)

# one entry of `prompts` in neurons.json, and one line of the journal
RECORD = (
    FormatField("prompt", "text", "the caption"),
    FormatField("outcome", "text", "`localized`, `not_memorized` or `unresolved`"),
    FormatField("score_before", "number", "the gate's score"),
    FormatField(
        "image_unlike",
        "boolean",
        "true: the image given is not what SOURCE draws for the prompt, so its own replica was asked for",
        "with `--images`, if true",
    ),
    FormatField(
        "reason",
        "text",
        "why it counts as not memorized all the same: `false alarm` or `alike by nature`",
        "where it passed the gate and is `not_memorized`",
    ),
    FormatField(
        "second_look",
        "object",
        "the prompt on the confirmation's seeds, nothing off",
        "where it passed the gate, without `--no-second-look`",
    ),
    FormatField(
        "second_look.of", "text", "the distribution of its most telling score, as in the calibration"
    ),
    FormatField("second_look.score", "number", "that score"),
    FormatField("second_look.p_value", "number", "the chance that an ordinary prompt scores as high"),
    FormatField("second_look.corrected", "number", "the same, corrected for the corpus", "in neurons.json"),
    FormatField(
        "second_look.neighbors", "integer", "captions like it looked at, up to the first that is not alike"
    ),
    FormatField("second_look.lowest_neighbor", "number or null", "the lowest score among them"),
    FormatField("score_after", "number or null", "the score with the refined neurons off", _SEARCHED),
    FormatField("initial.*", "list of integer", "layer -> rows of the initial selection", _SEARCHED),
    FormatField("refined.*", "list of integer", "layer -> rows that refinement kept", _SEARCHED),
    FormatField("kept_seeds", "list of integer", "positions of the seeds that passed the gate", _SEARCHED),
    FormatField("theta", "number or null", "the z-score threshold where the descent ended", _SEARCHED),
    FormatField("k", "integer", "the top-k where it ended", _SEARCHED),
    FormatField("steps", "integer", "steps of the published walk to there", _SEARCHED),
    FormatField("duplicates", "integer", "neurons that were chosen both by z-score and as top-k", _SEARCHED),
    FormatField(
        "score_initial",
        "number or null",
        "the score with the initial set off; null where a part of it was tested and the whole inferred",
        _SEARCHED,
    ),
    FormatField("refinement_threshold", "number", "the score that refinement had to stay below", _SEARCHED),
    FormatField("search", "text", "`group tests`, `single tests` or `not refined`", f"{_FAST}, {_SEARCHED}"),
    FormatField("inferred", "integer", "answers without a test", _GROUP),
    FormatField("wobble", "number", "the most by which a set scored higher than a smaller one", _GROUP),
    FormatField("fell_back", "boolean", "true: a contradiction sent the prompt to single tests", "if true"),
    FormatField(
        "confirmed",
        "object or null",
        "the check on fresh seeds; null with `--confirm-seeds 0`",
        _SEARCHED,
    ),
    FormatField("confirmed.seeds", "integer", "how many", _SEARCHED),
    FormatField(
        "confirmed.score", "number or null", "the score there, with the refined neurons off", _SEARCHED
    ),
    FormatField("confirmed.threshold", "number", "the threshold of these latents", _SEARCHED),
    FormatField("confirmed.broken", "boolean or null", "whether the memory is broken there too", _SEARCHED),
    FormatField(
        "parts.before.*",
        "number",
        "the numbers that the criterion's score is made of, by name, with nothing off",
    ),
    FormatField("parts.after.*", "number", "the same with the refined neurons off", _SEARCHED),
    FormatField(
        "confirmed.parts.*", "number", "the numbers that the score there is made of, by name", _SEARCHED
    ),
    FormatField(
        "evaluations_saved",
        "integer",
        "tests that the published walk would have needed until its set holds these neurons, less those made",
        "with `--selection attribution`, where no z-score singled a neuron out",
    ),
    FormatField("evaluations", "integer", "scores computed, the gate's included"),
    *work_fields("work", "the prompt"),
)

# The confirmation of the corpus's set: of no use to the journal, which is written before there is one.
FINAL = (
    FormatField(
        "final",
        "object or null",
        "the check of the corpus's set; null with `--confirm-seeds 0`",
        _SEARCHED,
    ),
    FormatField("final.broken", "boolean or null", "false if one of the two below says no", _SEARCHED),
    FormatField("final.noise", "object or null", "as `confirmed`, with the corpus's set off", _SEARCHED),
    *(
        FormatField(f"final.noise.{name}", kind, f"as `confirmed.{name}`", _SEARCHED)
        for name, kind in (
            ("seeds", "integer"),
            ("score", "number or null"),
            ("threshold", "number"),
            ("broken", "boolean or null"),
            ("parts.*", "number"),
        )
    ),
    FormatField(
        "final.pictures", "object or null", "what pictures show; null with `--confirm-pictures 0`", _SEARCHED
    ),
    *(
        FormatField(f"final.pictures.{name}", kind, meaning, _SEARCHED)
        for name, kind, meaning in (
            ("seeds", "integer", "pictures drawn with the set off"),
            ("guidance", "number", "the pipeline's own, at which they were drawn"),
            ("steps", "integer", "sampler steps"),
            ("against", "text", "`training image` or `own replica`: what they were compared with"),
            ("measure", "text", "the similarity"),
            ("threshold", "number", "from where on a picture is a replica"),
            ("fixed_share", "number", "the share of the picture that was compared: what stays fixed"),
            ("source_replicas", "integer", "replicas among SOURCE's own pictures (4, at other seeds)"),
            ("replicas", "integer", "replicas with the set off"),
            ("highest", "number", "the highest similarity with the set off"),
            ("broken", "boolean or null", "no replica; null where SOURCE draws none either"),
        )
    ),
)

NEURONS = Format(
    name="neurons.json",
    tag="surgery.neurons/1",
    file="where `-o` says; in the working folder (`OUT.evidence`) for `surgery apply`",
    written_by="`surgery localize`, `surgery apply`, `surgery demo`, or by hand",
    public="No: it quotes the prompts of your corpus.",
    shape="a JSON object; `format` and `layers` are all that `patch` needs, the rest is evidence",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("layers.*", "list of integer", "diffusers layer name -> rows: the set for the corpus"),
        FormatField("model", "text", "path or Hub id as given", "where `localize` wrote it, as all below"),
        *fingerprint_fields("fingerprint"),
        FormatField("settings.*", "any", "every setting of the run, seeds included (`LocalizeSettings`)"),
        FormatField("thresholds.gate", "number", "score above which a prompt is memorized"),
        FormatField("thresholds.selection", "number", "score at which the initial selection ends"),
        FormatField("thresholds.refinement", "number", "score that refinement stays below"),
        FormatField("images", "integer", "prompts with a training image (`--images`)"),
        FormatField("window.taps", "integer", "taps of the MS-SSIM window; 11 as published"),
        FormatField("window.sigma", "number", "its standard deviation"),
        FormatField("calibration.prompts", "integer", "ordinary prompts calibrated on"),
        FormatField("calibration.source", "text", "where they came from"),
        FormatField("calibration.cutoff", "number or null", "`--cutoff`; null: each criterion's own"),
        FormatField("calibration.made_with.*", "any", "the settings that the scores depend on"),
        *score_fields("calibration.scores"),
        FormatField("aggregation.minimum_prompts", "integer", "`--min-prompts`"),
        FormatField("aggregation.most_frequent", "integer or null", "`--most-frequent`"),
        FormatField("aggregation.per_layer", "boolean", "`--per-layer`"),
        *CORPUS_FIELDS,
        FormatField(
            "outcomes.*", "integer", "how many prompts were `localized`, `not_memorized`, `unresolved`"
        ),
        FormatField(
            "reasons.*", "integer", "of the not memorized ones, how many are `false alarm`, `alike by nature`"
        ),
        *JOINT_MASK,
        FormatField("computes_in", "text", "`float32`, `float16`, `mixed-float16`, ..."),
        FormatField("versions.*", "text", "of surgery, torch, diffusers, transformers"),
        *work_fields("work", "the run"),
        FormatField("prompts", "list", "one record per different prompt, in corpus order"),
        *(
            FormatField(f"prompts[].{one.path}", one.type, one.meaning, one.only)
            for one in (*RECORD, *FINAL, *JOINT_RECORD)
        ),
    ),
)

JOURNAL = Format(
    name="journal",
    tag="surgery.journal/1",
    file="`OUTPUT.journal`, or where `--journal` says; `NAME.1`, `NAME.2`, ... for further processes",
    written_by="`surgery localize`, while it runs; removed at the end unless `--journal` named it",
    public="No: it quotes the prompts of your corpus.",
    shape="JSON lines; the first has these fields, each further line is one entry of `prompts` in "
    "neurons.json",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("run.settings.*", "any", "every setting of the run but the batch size"),
        FormatField("run.thresholds.*", "number", "`gate`, `selection`, `refinement`"),
        FormatField("run.images", "text or null", "SHA-256 of the training images; null without `--images`"),
        *fingerprint_fields("run.fingerprint"),
        FormatField("run.computes_in", "text", "as in neurons.json; a journal of another type is refused"),
    ),
)
