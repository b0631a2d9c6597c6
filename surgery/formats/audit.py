"""What `surgery audit` writes: audit.json, and the state that it goes on from."""

from __future__ import annotations

from surgery.formats.attacks import ATTACK_FIELDS, PROMPT_ATTACK_FIELDS
from surgery.formats.fields import (
    CORPUS_FIELDS,
    Format,
    FormatField,
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
_QUALITY = "with `--clip`, `--fid-reference`"

AUDIT = Format(
    name="audit.json",
    tag="surgery.audit/2",
    file="`audit.json` in the folder that `-o` says, `audit.html` beside it",
    written_by="`surgery audit`",
    public="Yes, unless `private` is true: then it quotes prompts.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("verdict", "text", "the checkpoint's word"),
        FormatField(
            "phrase", "text", "the word with what it was reached with: `removed (embedding 200, ...)`"
        ),
        FormatField("reason", "text", "why, in one sentence"),
        FormatField("sentence", "text", "what was tried and found, without a technical word"),
        FormatField("counts.*", "integer", "how many prompts have each word"),
        FormatField(
            "pooled_p_values.*",
            "number",
            "attack -> all attacked prompts together against the controls",
            _ATTACK,
        ),
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
        *ATTACK_FIELDS,
        FormatField("neurons.zeroed.*", "list of integer", "layer -> rows zero in PATCHED and not in SOURCE"),
        FormatField("neurons.count", "integer", "how many"),
        FormatField("neurons.otherwise_changed_rows", "integer", "value rows that differ in any other way"),
        FormatField("complete", "boolean", "false where the budget ended the audit"),
        FormatField("similarity.name", "text", "the measure"),
        FormatField("similarity.threshold", "number", "a replica from here up"),
        FormatField("similarity.source", "text", "where measure and threshold come from"),
        FormatField("settings.*", "any", "every setting (`AuditSettings`): the numbers depend on them"),
        FormatField(
            "models.*.name",
            "text",
            "of `source`, `patched`, `twin`, `base`: Hub id, or the last part of the path",
        ),
        FormatField("models.*.fingerprint", "text", "sha256 of the fingerprint of the value layers"),
        FormatField("models.*.sha256.*", "text", "of each local weight file of the UNet", "for local models"),
        *CORPUS_FIELDS,
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
        FormatField("prompts[].phrase", "text", "the word with what it was reached with"),
        FormatField(
            "prompts[].code",
            "text",
            "the reason for scripts: `replicates`, `prompt-draws`, `drawn`, `separated`, `passed`, "
            "`weak-attacks`, `undecided`, `stands-out`, `insensitive`, `contested`, `injects`, `twin-holds`, "
            "`twin-incomplete`, "
            "`blind`, `few-controls`, `not-finite`, `no-attack`, `not-in-source`, `budget`",
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
        *PROMPT_ATTACK_FIELDS,
    ),
)

AUDIT_STATE = Format(
    name="state of an audit",
    tag="surgery.audit-state/3",
    file="`state/` in the audit's folder, readable by its owner only",
    written_by="`surgery audit`, while it runs; removed once the audit is complete",
    public="No: it holds pictures of memories.",
    shape="one JSON file per finished unit of work, and `canaries.pt` with the weights of the copy of SOURCE "
    "that canaries were taught to; `header.json` has these fields, and an audit with other ones refuses to "
    "go on from it",
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
