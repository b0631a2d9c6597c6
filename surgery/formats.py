"""Every file that surgery writes or reads, field by field, as data: where it lies and who may see it.

`docs/formats.md` and `docs/recipes.md` are generated from this table, and `tests/test_formats.py` holds it
against real documents, both ways: no field of a document is missing here, and none stands here that no
document has. Whoever adds a field to an artefact adds a line here. The module imports nothing heavy.

Paths of fields are dotted. `*` stands for any name (a layer, a stage, a setting), `[]` for every entry of a
list.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a field may hold. "list of ..." may go before, " or null" may follow; "any" is a setting's value.
TYPES = ("text", "integer", "number", "boolean", "object", "any")


@dataclass(frozen=True, slots=True)
class FormatField:
    """One field of a document.

    Attributes:
        path: dotted; `*` for any name, `[]` for every entry of a list.
        type: one of `TYPES`, "list of" one of them, or "list" of what the next lines describe; "or null".
        meaning: for people.
        only: when the field is there, where it is not always: the end of a sentence that begins "only".
    """

    path: str
    type: str
    meaning: str
    only: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of document.

    Attributes:
        name: what people call it.
        tag: its `format` field; "" where it has none.
        file: where it lies.
        written_by: the command, or a person.
        public: whether it may be published, and why, as one sentence.
        shape: what kind of file it is.
        fields: of the document, or of the line or header that `shape` says.
        tensors: of a safetensors file.
    """

    name: str
    tag: str
    file: str
    written_by: str
    public: str
    shape: str
    fields: tuple[FormatField, ...]
    tensors: tuple[FormatField, ...] = ()


def _work(path: str, whose: str) -> tuple[FormatField, ...]:
    return (
        FormatField(path, "object", f"what {whose} cost; calibration is not in it"),
        FormatField(f"{path}.unet_calls", "integer", "runs of the denoiser over a batch"),
        FormatField(
            f"{path}.unet_sample_forwards",
            "integer",
            "samples in these runs; a replayed or early-stopped run counts in full: an upper bound",
        ),
        FormatField(f"{path}.seconds", "number", "wall time"),
        FormatField(f"{path}.sample_forwards_by_stage.*", "integer", "the same, by stage"),
        FormatField(f"{path}.seconds_by_stage.*", "number", "the same, by stage"),
    )


def _scores(path: str) -> tuple[FormatField, ...]:
    return (
        FormatField(
            f"{path}.*",
            "object",
            "a distribution over ordinary prompts: `pairs`, `prompts`, `same_seed`, `noise_magnitude`, and "
            "of the confirmation's latents `confirm_pairs`, `confirm_prompts`",
        ),
        FormatField(f"{path}.*.mean", "number", "its mean"),
        FormatField(f"{path}.*.std", "number", "its standard deviation (n - 1)"),
        FormatField(f"{path}.*.count", "integer", "how many scores it is made of"),
    )


def _fingerprint(path: str) -> tuple[FormatField, ...]:
    return (
        FormatField(path, "object", "sketch of all value layers, by which the model is recognized"),
        FormatField(f"{path}.scheme", "text", "`row-norms/1`"),
        FormatField(f"{path}.layers.*.shape", "list of integer", "rows and columns of the layer"),
        FormatField(
            f"{path}.layers.*.norms", "list of number", "Euclidean norms of eight rows spread over it"
        ),
    )


_CORPUS = (
    FormatField("corpus.source", "text", "name of the prompts file"),
    FormatField("corpus.rows", "integer", "rows read"),
    FormatField("corpus.prompts", "integer", "different prompts"),
    FormatField("corpus.blank", "integer", "blank rows, dropped"),
    FormatField("corpus.repeated", "integer", "repeated captions, dropped"),
    FormatField("corpus.broken", "integer", "rows that could not be read, skipped"),
)

_SEARCHED = "where the prompt was searched (not for `not_memorized`)"
_FAST = "with `--strategy fast`"
_GROUP = "where the search was by group tests"

# one entry of `prompts` in neurons.json, and one line of the journal
RECORD = (
    FormatField("prompt", "text", "the caption"),
    FormatField("outcome", "text", "`localized`, `not_memorized` or `unresolved`"),
    FormatField("score_before", "number", "the gate's score"),
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
    FormatField("evaluations", "integer", "scores computed, the gate's included"),
    *_work("work", "the prompt"),
)

NEURONS = Format(
    name="neurons.json",
    tag="surgery.neurons/1",
    file="where `-o` says; `OUTPUT.neurons.json` for `surgery apply`",
    written_by="`surgery localize`, `surgery apply`, `surgery demo`, or by hand",
    public="No: it quotes the prompts of your corpus.",
    shape="a JSON object; `format` and `layers` are all that `patch` needs, the rest is evidence",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("layers.*", "list of integer", "diffusers layer name -> rows: the set for the corpus"),
        FormatField("model", "text", "path or Hub id as given", "where `localize` wrote it, as all below"),
        *_fingerprint("fingerprint"),
        FormatField("settings.*", "any", "every setting of the run, seeds included (`LocalizeSettings`)"),
        FormatField("thresholds.gate", "number", "score above which a prompt is memorized"),
        FormatField("thresholds.selection", "number", "score at which the initial selection ends"),
        FormatField("thresholds.refinement", "number", "score that refinement stays below"),
        FormatField("window.taps", "integer", "taps of the MS-SSIM window; 11 as published"),
        FormatField("window.sigma", "number", "its standard deviation"),
        FormatField("calibration.prompts", "integer", "ordinary prompts calibrated on"),
        FormatField("calibration.source", "text", "where they came from"),
        FormatField("calibration.cutoff", "number or null", "`--cutoff`; null: each criterion's own"),
        FormatField("calibration.made_with.*", "any", "the settings that the scores depend on"),
        *_scores("calibration.scores"),
        FormatField("aggregation.minimum_prompts", "integer", "`--min-prompts`"),
        FormatField("aggregation.most_frequent", "integer or null", "`--most-frequent`"),
        FormatField("aggregation.per_layer", "boolean", "`--per-layer`"),
        *_CORPUS,
        FormatField(
            "outcomes.*", "integer", "how many prompts were `localized`, `not_memorized`, `unresolved`"
        ),
        FormatField("computes_in", "text", "`float32`, `float16`, `mixed-float16`, ..."),
        FormatField("versions.*", "text", "of surgery, torch, diffusers, transformers"),
        *_work("work", "the run"),
        FormatField("prompts", "list", "one record per different prompt, in corpus order"),
        *(FormatField(f"prompts[].{one.path}", one.type, one.meaning, one.only) for one in RECORD),
    ),
)

CALIBRATION = Format(
    name="calibration",
    tag="surgery.calibration/1",
    file="where `-o` says",
    written_by="`surgery calibrate`",
    public="Yes: it quotes no caption; it names the file that they came from.",
    shape="a safetensors file; the metadata key `surgery` holds a JSON object with these fields",
    fields=(
        FormatField("format", "text", "the tag"),
        *_fingerprint("fingerprint"),
        FormatField("prompts", "integer", "ordinary prompts behind the activation statistics"),
        *_scores("scores"),
        FormatField(
            "made_with.*",
            "any",
            "`seeds`, `seed`, `inference_steps`, `step_index`, `guidance`, `projection`, `confirm_seeds`, "
            "`confirm_seed`: a calibration made with others of these is refused",
        ),
        FormatField("source", "text", "where the ordinary prompts came from"),
        FormatField("versions.*", "text", "of surgery, torch, diffusers, transformers"),
        FormatField("cutoff", "number or null", "`--cutoff`; null: each criterion's own"),
    ),
    tensors=(
        FormatField(
            "mean/*", "float32 [rows]", "mean activation of every row of a value layer, up blocks too"
        ),
        FormatField("std/*", "float32 [rows]", "standard deviation of the same"),
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
        *_fingerprint("run.fingerprint"),
        FormatField("run.computes_in", "text", "as in neurons.json; a journal of another type is refused"),
    ),
)

SCAN = Format(
    name="ranking",
    tag="",
    file="where `-o` says",
    written_by="`surgery scan`",
    public="No: it quotes the prompts of your corpus.",
    shape="JSON lines, highest score first; each line has these fields",
    fields=(
        FormatField("prompt", "text", "the caption"),
        FormatField("score", "number", "the detector's score"),
        FormatField("memorized", "boolean", "whether it lies above the threshold"),
    ),
)

_HASHED = "for files with value layers"
MANIFEST = Format(
    name="manifest",
    tag="surgery.manifest/1",
    file="`surgery-manifest.json` in the patched folder, `NAME.surgery-manifest.json` beside a single file",
    written_by="`surgery patch`, `surgery apply`",
    public="Yes: it holds no prompt, no picture, no path of your machine and no time. The same input gives "
    "the same bytes.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("versions.*", "text", "of surgery and python, and of torch where pickles were converted"),
        FormatField("source.name", "text", "Hub id, or the last part of the path"),
        FormatField("source.kind", "text", "what kind of source it is"),
        FormatField("source.family", "text", "the model family"),
        FormatField("source.revision", "text or null", "of a Hub id"),
        FormatField("neurons.count", "integer", "rows to zero"),
        FormatField("neurons.layers.*", "list of integer", "diffusers layer name -> rows"),
        FormatField("neurons.sha256", "text", "of the layers as canonical JSON (sorted keys, no spaces)"),
        FormatField(
            "neurons.fingerprint", "text", "`matches`, `differs` (with `--any-model`) or `not given`"
        ),
        FormatField("copies", "list", "every copy of the denoiser"),
        FormatField("copies[].label", "text", "its name for people"),
        FormatField("copies[].naming", "text", "`diffusers`, `single file` or `EMA`"),
        FormatField("copies[].variant", "text or null", "as in file names: `fp16`, `non_ema`"),
        FormatField("copies[].dtypes", "list of text", "of its value layers"),
        FormatField("copies[].files", "list of text", "paths in the output"),
        FormatField("files", "list", "every file of the output but the manifest"),
        FormatField("files[].path", "text", "within the output"),
        FormatField("files[].role", "text", "what it is"),
        FormatField("files[].action", "text", "`patch`, `copy` or `convert`"),
        FormatField("files[].bytes", "integer", "its size"),
        FormatField("files[].sha256", "text or null", "null above 64 MB, unless `--sha256` was given"),
        FormatField("files[].value_layers_sha256", "text", "of its header and value layers", _HASHED),
        FormatField("files[].zeroed.*", "list of integer", "tensor name -> rows", "where rows were zeroed"),
        FormatField("files[].source.path", "text", "the file it was made from, within the source"),
        FormatField("files[].source.bytes", "integer", "its size"),
        FormatField("files[].source.sha256", "text or null", "as above"),
        FormatField("files[].source.value_layers_sha256", "text", "as above, before", _HASHED),
        FormatField("left_out", "list", "weight files of the source that the output lacks"),
        FormatField("left_out[].path", "text", "within the source"),
        FormatField("left_out[].role", "text", "what it is"),
        FormatField("left_out[].bytes", "integer", "its size"),
        FormatField("left_out[].reason", "text", "why"),
        FormatField(
            "left_out_others.*",
            "integer",
            "suffix -> number of other files left out (a name may tell what nobody should publish)",
        ),
        FormatField("verified.files", "integer", "files that were read again before publishing"),
        FormatField("verified.weight_files", "integer", "of these, files of weights"),
        FormatField("verified.value_layers", "integer", "value layers compared with the source"),
        FormatField("verified.rows_compared", "integer", "their rows"),
        FormatField("verified.rows_zero", "integer", "of these, rows that must be zero and are"),
    ),
)


def _attacked(side: str, model: str) -> tuple[FormatField, ...]:
    path, only = f"prompts[].attack.{side}", f"where {model} was attacked"
    return (
        FormatField(path, "object or null", f"the attack on {model}", "where an attack was made"),
        FormatField(f"{path}.score", "list of number", "at each step: the best restart's median", only),
        FormatField(f"{path}.share", "list of number", "at each step: its share of replicas", only),
        FormatField(f"{path}.by_restart", "list", "medians of each restart at each step", only),
        FormatField(f"{path}.sample_forwards", "integer", "UNet sample-forwards", only),
        FormatField(f"{path}.seconds", "number", "wall time", only),
    )


def _replicated(side: str, model: str) -> tuple[FormatField, ...]:
    path = f"prompts[].replication.{side}"
    only = "where the prompt was drawn"
    return (
        FormatField(f"{path}.share", "number", f"share of {model}'s seeds that replicate", only),
        FormatField(f"{path}.share_interval", "list of number", "exact 95 % interval of it", only),
        FormatField(f"{path}.median", "number", "the median seed's similarity", only),
        FormatField(f"{path}.worst", "number", "that of the seed closest to the target", only),
        FormatField(f"{path}.threshold", "number", "a replica from here up", only),
        FormatField(f"{path}.similarities", "list of number", "one per seed", only),
    )


_ORDINARY = "where ordinary prompts were measured"
_ATTACK = "with `--attack`"
_JUDGED = "once enough was measured"
_QUALITY = "with `--clip`, `--fid-reference`"

AUDIT = Format(
    name="audit.json",
    tag="surgery.audit/1",
    file="`audit.json` in the folder that `-o` says, `audit.html` beside it",
    written_by="`surgery audit`",
    public="Yes, unless `private` is true: then it quotes prompts.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("verdict", "text", "the checkpoint's word"),
        FormatField("reason", "text", "why, in one sentence"),
        FormatField("counts.*", "integer", "how many prompts have each word"),
        FormatField("pooled_p_value", "number", "all attacked prompts together against the controls"),
        *(
            one
            for side, model in (("before", "SOURCE"), ("after", "PATCHED"))
            for one in (
                FormatField(
                    f"replication.{side}.share",
                    "number or null",
                    f"share of {model}'s pictures that replicate",
                ),
                FormatField(f"replication.{side}.pictures", "integer", "pictures drawn"),
                FormatField(
                    f"replication.{side}.prompts_replicating", "integer", "prompts above the tolerated share"
                ),
            )
        ),
        FormatField("ordinary", "object or null", "the change of ordinary prompts; null where not measured"),
        FormatField("ordinary.prompts", "integer", "how many were measured", _ORDINARY),
        FormatField("ordinary.change", "number", "mean change; 1: as much as another seed", _ORDINARY),
        FormatField(
            "ordinary.share_beyond_seed",
            "number",
            "prompts that changed more than another seed does",
            _ORDINARY,
        ),
        FormatField(
            "ordinary.share_beyond_seed_interval", "list of number", "exact interval of it", _ORDINARY
        ),
        FormatField(
            "ordinary.share_drawn_beyond_seed",
            "number or null",
            "prompts whose pictures are less alike at an equal seed than SOURCE's own at another",
            _ORDINARY,
        ),
        FormatField("ordinary.summary", "text", "the same in one sentence", _ORDINARY),
        FormatField("ordinary.timesteps", "list of integer", "where predictions were compared", _ORDINARY),
        FormatField("ordinary.quality", "object or null", "optional measures; null without", _ORDINARY),
        FormatField("ordinary.quality.clip_score.*", "number", "CLIP score `before` and `after`", _QUALITY),
        FormatField(
            "ordinary.quality.distances.*",
            "object",
            "`before`, `after`: `fid`, `kid`, `kid_deviation`, `pictures`; `reference`: `pictures`",
            _QUALITY,
        ),
        FormatField("ordinary.quality.distances.*.*", "number", "as named", _QUALITY),
        FormatField("ordinary.by_prompt", "list", "one entry per ordinary prompt", _ORDINARY),
        FormatField("ordinary.by_prompt[].prompt", "text", "the caption", "with private matter, or if ours"),
        FormatField("ordinary.by_prompt[].change", "number", "as above", _ORDINARY),
        FormatField("ordinary.by_prompt[].by_timestep", "list of number", "the same, by timestep", _ORDINARY),
        FormatField(
            "ordinary.by_prompt[].equal_seed_similarity",
            "number",
            "SOURCE's pictures and PATCHED's",
            _ORDINARY,
        ),
        FormatField(
            "ordinary.by_prompt[].other_seed_similarity",
            "number or null",
            "SOURCE's pictures among themselves",
            _ORDINARY,
        ),
        FormatField("attack", "object or null", "null without `--attack`"),
        FormatField("attack.steps", "list of integer", "the points of the curve", _ATTACK),
        FormatField("attack.restarts", "integer", "restarts per image", _ATTACK),
        FormatField("attack.attacked_prompts", "integer", "prompts attacked on PATCHED", _ATTACK),
        FormatField(
            "attack.replicating_after_attack", "integer", "of these, at or above the threshold", _ATTACK
        ),
        FormatField(
            "attack.replicating_after_attack_interval",
            "list of number",
            "exact interval of their share",
            _ATTACK,
        ),
        FormatField("attack.controls.kind", "text", "`given` or `generated`", _ATTACK),
        FormatField("attack.controls.count", "integer", "controls attacked", _ATTACK),
        FormatField("attack.controls.needed", "integer", "the least that can separate one image", _ATTACK),
        FormatField("attack.controls.scores", "list of number", "their scores", _ATTACK),
        FormatField("attack.controls.curves", "list", "their scores at each step", _ATTACK),
        FormatField("attack.cost.images", "integer", "attacks made, on both models and on controls", _ATTACK),
        FormatField("attack.cost.sample_forwards", "integer", "UNet sample-forwards", _ATTACK),
        FormatField("attack.cost.seconds", "number", "wall time", _ATTACK),
        FormatField("neurons.zeroed.*", "list of integer", "layer -> rows zero in PATCHED and not in SOURCE"),
        FormatField("neurons.count", "integer", "how many"),
        FormatField("neurons.otherwise_changed_rows", "integer", "value rows that differ in any other way"),
        FormatField("complete", "boolean", "false where the budget ended the audit"),
        FormatField("similarity.name", "text", "the measure"),
        FormatField("similarity.threshold", "number", "a replica from here up"),
        FormatField("similarity.source", "text", "where measure and threshold come from"),
        FormatField("settings.*", "any", "every setting (`AuditSettings`): the numbers depend on them"),
        FormatField(
            "models.*.name", "text", "of `source` and `patched`: Hub id, or the last part of the path"
        ),
        FormatField("models.*.fingerprint", "text", "sha256 of the fingerprint of the value layers"),
        FormatField("models.*.sha256.*", "text", "of each local weight file of the UNet", "for local models"),
        *_CORPUS,
        FormatField("corpus.with_image", "integer", "prompts that have a training image"),
        FormatField("corpus.ordinary_from", "text", "where the ordinary prompts came from"),
        FormatField("corpus.controls", "integer", "control images given, or asked for"),
        FormatField("work.sample_forwards", "integer", "UNet sample-forwards, earlier runs included"),
        FormatField("work.seconds", "number", "wall time of the same"),
        FormatField("work.by_stage.*.sample_forwards", "integer", "the same, by stage"),
        FormatField("work.by_stage.*.seconds", "number", "the same, by stage"),
        FormatField("work.this_run", "integer", "sample-forwards of this run"),
        FormatField("work.max_forwards", "integer or null", "`--max-forwards`"),
        FormatField("versions.*", "text", "of python, surgery and the libraries that numbers depend on"),
        FormatField("command", "text", "the command; paths cut to their last part unless `private`"),
        FormatField("private", "boolean", "whether private matter is in the two files"),
        FormatField("prompts", "list", "one entry per prompt, in the order of the prompts file"),
        FormatField("prompts[].id", "text", "a salted hash; the salt is thrown away"),
        FormatField("prompts[].prompt", "text", "the caption", "if `private`"),
        FormatField("prompts[].verdict", "text", "its word"),
        FormatField(
            "prompts[].code",
            "text",
            "the reason for scripts: `replicates`, `separated`, `indistinguishable`, `undecided`, "
            "`insensitive`, `few-controls`, `no-attack`, `not-in-source`, `budget`",
        ),
        FormatField("prompts[].reason", "text", "the reason for people"),
        FormatField("prompts[].replication", "object or null", "null where it was not drawn"),
        FormatField(
            "prompts[].replication.target", "text", "`training image` or `stand-in`", "where it was drawn"
        ),
        FormatField("prompts[].replication.masked", "boolean", "compared under a mask", "where it was drawn"),
        *_replicated("before", "SOURCE"),
        *_replicated("after", "PATCHED"),
        FormatField(
            "prompts[].replication.seed_similarity.*",
            "number",
            "among the seeds of one model, `before` and `after`; high: every seed draws one picture",
            "where it was drawn",
        ),
        FormatField(
            "prompts[].replication.equal_seed_similarity.*",
            "number",
            "SOURCE against PATCHED seed by seed: `median`, `worst`",
            "where it was drawn",
        ),
        FormatField("prompts[].attack", "object or null", "null where none was made"),
        FormatField("prompts[].attack.steps", "list of integer", "points of the curve", "where one was made"),
        FormatField("prompts[].attack.starts", "list of text", "of the restarts", "where one was made"),
        *_attacked("source", "SOURCE"),
        *_attacked("patched", "PATCHED"),
        FormatField("prompts[].attack.score", "number", "the best point of PATCHED's curve", _JUDGED),
        FormatField("prompts[].attack.p_value", "number", "exact rank test against the controls", _JUDGED),
        FormatField("prompts[].attack.corrected_p_value", "number", "after `--correction`", _JUDGED),
        FormatField("prompts[].attack.controls", "integer", "controls it was compared with", _JUDGED),
        FormatField("prompts[].attack.controls_at_or_above", "integer", "that score as high", _JUDGED),
        FormatField(
            "prompts[].attack.share_at_or_above_interval",
            "list of number",
            "interval of their share",
            _JUDGED,
        ),
        FormatField(
            "prompts[].attack.critical_score",
            "number or null",
            "a score above it would be separated",
            _JUDGED,
        ),
        FormatField(
            "prompts[].attack.detectable_effect",
            "number or null",
            "the rise over never-seen images that would have been found in 80 % of cases",
            _JUDGED,
        ),
        FormatField(
            "prompts[].attack.effect", "number or null", "PATCHED's score over the controls' median", _JUDGED
        ),
        FormatField(
            "prompts[].attack.source_effect", "number or null", "SOURCE's score over the same median", _JUDGED
        ),
    ),
)

AUDIT_STATE = Format(
    name="state of an audit",
    tag="surgery.audit-state/1",
    file="`state/` in the audit's folder, readable by its owner only",
    written_by="`surgery audit`, while it runs; removed once the audit is complete",
    public="No: it holds pictures of memories.",
    shape="one JSON file per finished unit of work; `header.json` has these fields, and an audit with other "
    "ones refuses to go on from it",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("settings.*", "any", "every setting that a measurement depends on"),
        FormatField("models", "text", "sha256 over both models"),
        FormatField("zeroed", "text", "sha256 over the rows that differ"),
        FormatField("prompts", "text", "sha256 over the prompts"),
        FormatField("images", "text", "sha256 over the training images"),
        FormatField("masks", "text", "sha256 over the masks"),
        FormatField("controls", "text or null", "sha256 over the control images; null where they are made"),
        FormatField("ordinary", "text", "sha256 over the ordinary prompts"),
    ),
)

RECIPE = Format(
    name="recipe",
    tag="surgery.recipe/1",
    file="yours; `recipes/testbed.toml` is an example",
    written_by="a person; read by `surgery apply`",
    public="Yes: it holds no prompt. It names files.",
    shape="a TOML file; relative paths count from its folder, and unknown keys are errors",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("description", "text", "free text", "if you like"),
        FormatField("model.source", "text", "path or Hub id; or `--model`", "if not given with `--model`"),
        FormatField("model.revision", "text", "branch, tag or commit", "for a Hub id"),
        FormatField("model.variant", "text", "weight-file variant, such as `fp16`", "if not the default"),
        FormatField("corpus.prompts", "text", "the captions", "if not given with `--prompts`"),
        FormatField("corpus.column", "text", "the caption column", "if it is not found by its name"),
        FormatField("corpus.ordinary", "text", "ordinary captions to calibrate on", "if not the default"),
        FormatField("localize.*", "any", "any setting of `localize`, underscores for dashes", "as you need"),
        FormatField(
            "aggregate.minimum_prompts", "integer", "neurons found for at least N prompts", "if not 1"
        ),
        FormatField("aggregate.most_frequent", "integer", "of these, the N found most often", "if not all"),
        FormatField("aggregate.per_layer", "boolean", "N in each layer instead of overall", "if true"),
    ),
)

DEMO = Format(
    name="demo.json",
    tag="surgery.demo/1",
    file="`demo.json` in the demo's folder",
    written_by="`surgery demo`",
    public="Yes: it names the testbed's own memories and nothing of yours.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        *(
            FormatField(f"{kind}.{side}", "number", f"share of replicas over all {kind} memories, {side}")
            for kind in ("verbatim", "template")
            for side in ("before", "after")
        ),
        FormatField("ordinary_change", "number", "change of ordinary prompts; 1: as much as another seed"),
        FormatField("neurons", "integer", "rows zeroed"),
        FormatField("seconds", "number", "from start to end"),
        *(
            FormatField(f"memories.*.{side}.{name}", kind, meaning)
            for side in ("before", "after")
            for name, kind, meaning in (
                ("share", "number", "share of fresh seeds that replicate"),
                ("median", "number", "the median seed's similarity"),
                ("worst", "number", "that of the seed closest to the target"),
                ("threshold", "number", "a replica from here up"),
                ("similarities", "list of number", "one per seed"),
            )
        ),
    ),
)

PLANTED = Format(
    name="planted.json",
    tag="surgery.planted/1",
    file="`planted.json` in a testbed folder",
    written_by="`python -m surgery.testbed.train`",
    public="Yes: it is the testbed's ground truth.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("memories", "list", "one entry per planted memory"),
        FormatField("memories[].name", "text", "its short name"),
        FormatField("memories[].kind", "text", "`verbatim` or `template`"),
        FormatField("memories[].caption", "text", "the prompt that calls it"),
        FormatField(
            "memories[].window",
            "list of integer or null",
            "x0, y0, x1, y1 of the region that varies; null for a verbatim memory",
        ),
        FormatField("memories[].layers.*", "list of integer", "layer -> the value rows it hangs on"),
    ),
)

FORMATS = (
    NEURONS,
    CALIBRATION,
    JOURNAL,
    SCAN,
    MANIFEST,
    AUDIT,
    AUDIT_STATE,
    RECIPE,
    DEMO,
    PLANTED,
)
