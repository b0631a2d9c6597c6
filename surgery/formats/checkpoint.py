"""What `surgery patch` writes beside the weights, and `surgery card` adds to: the manifest."""

from __future__ import annotations

from surgery.formats.fields import (
    Format,
    FormatField,
)

_TRAINED = "where an edit trained tensors"
_HASHED = "for files with value layers"
_PUBLISHED = "once `surgery card` recorded what was measured"
_AUDITED = "where an audit was recorded"
_SEARCHED = "where `neurons.json` was recorded, and says how it was made"


def _published_fields() -> tuple[FormatField, ...]:
    """The section that the publish step adds; `patch` writes none of it."""
    path = "published"
    return (
        FormatField(path, "object", "what was measured, and what is published", _PUBLISHED),
        FormatField(f"{path}.surgery", "text", "the version that wrote this section", _PUBLISHED),
        *_method_fields(f"{path}.method"),
        FormatField(
            f"{path}.audit", "object or null", "summary of `audit.json`; null: none made", _PUBLISHED
        ),
        FormatField(f"{path}.audit.format", "text", "the audit's tag", _AUDITED),
        FormatField(f"{path}.audit.sha256", "text", "of `audit.json`", _AUDITED),
        FormatField(f"{path}.audit.verdict", "text", "the checkpoint's word", _AUDITED),
        FormatField(f"{path}.audit.phrase", "text", "the word with the effort behind it", _AUDITED),
        FormatField(f"{path}.audit.reason", "text", "why, in one sentence", _AUDITED),
        FormatField(f"{path}.audit.counts.*", "integer", "how many prompts have each word", _AUDITED),
        FormatField(f"{path}.audit.complete", "boolean", "whether the audit came to its end", _AUDITED),
        FormatField(
            f"{path}.audit.bound", "boolean", "whether it names these weight files by their sha256", _AUDITED
        ),
        FormatField(
            f"{path}.audit.attacks", "any", "the audit's summary of its attacks; null without", _AUDITED
        ),
        FormatField(f"{path}.prompts", "list", "one entry per audited prompt", _PUBLISHED),
        FormatField(f"{path}.prompts[].id", "text", "its salted hash", _AUDITED),
        FormatField(f"{path}.prompts[].verdict", "text", "its word", _AUDITED),
        FormatField(f"{path}.prompts[].phrase", "text", "the word with the effort behind it", _AUDITED),
        FormatField(
            f"{path}.gate.passed",
            "boolean",
            "whether the verdict is `removed`, of a complete audit of these weight files",
            _PUBLISHED,
        ),
        FormatField(
            f"{path}.gate.accepted_risk", "text or null", "why it is published all the same", _PUBLISHED
        ),
        FormatField(
            f"{path}.files", "list", "every published file but this one and the signature", _PUBLISHED
        ),
        FormatField(f"{path}.files[].path", "text", "within the folder", _PUBLISHED),
        FormatField(f"{path}.files[].bytes", "integer", "its size", _PUBLISHED),
        FormatField(f"{path}.files[].sha256", "text", "of the whole file, however large", _PUBLISHED),
    )


def _method_fields(path: str) -> tuple[FormatField, ...]:
    """How the neurons were found and the audit made: settings, seeds, thresholds, versions."""
    search, audit = f"{path}.localization", f"{path}.audit"
    words, numbers = ("criterion", "strategy", "projection"), ("guidance",)
    whole = ("seeds", "seed", "confirm_seeds", "confirm_seed", "inference_steps", "step_index")
    audit_whole = ("seeds", "more_seeds", "first_seed", "steps", "attack_seeds", "controls", "canaries")
    return (
        FormatField(search, "object or null", "how the neurons were found; null: not recorded", _PUBLISHED),
        *(
            FormatField(f"{search}.settings.{name}", kind, "as in `neurons.json`", _SEARCHED)
            for names, kind in ((words, "text"), (whole, "integer"), (numbers, "number"))
            for name in names
        ),
        *(
            FormatField(f"{search}.thresholds.{name}", "number", "as in `neurons.json`", _SEARCHED)
            for name in ("gate", "selection", "refinement")
        ),
        FormatField(
            f"{search}.calibration_prompts", "integer or null", "ordinary prompts behind them", _SEARCHED
        ),
        *(
            FormatField(f"{search}.outcomes.{name}", "integer", "how many prompts ended so", _SEARCHED)
            for name in ("localized", "not_memorized", "unresolved")
        ),
        FormatField(f"{search}.computes_in", "text or null", "number type of the denoiser", _SEARCHED),
        FormatField(f"{search}.versions.*", "text", "of the libraries that ran", _SEARCHED),
        FormatField(audit, "object or null", "how the audit was made; null: not recorded", _PUBLISHED),
        *(
            FormatField(f"{audit}.settings.{name}", kind, "as in `audit.json`", _AUDITED)
            for names, kind in (
                (audit_whole, "integer"),
                (("guidance", "tolerance", "alpha"), "number"),
                (("correction",), "text"),
            )
            for name in names
        ),
        FormatField(f"{audit}.similarity", "text or null", "the measure", _AUDITED),
        FormatField(f"{audit}.threshold", "number or null", "from which a picture is a replica", _AUDITED),
        FormatField(f"{audit}.versions.*", "text", "of the libraries that ran", _AUDITED),
    )


MANIFEST = Format(
    name="manifest",
    tag="surgery.manifest/2",
    file="`surgery-manifest.json` in the patched folder, `NAME.surgery-manifest.json` beside a single file",
    written_by="`surgery patch`; the section `published` by `surgery card`; both by `surgery apply`",
    public="Yes: it holds no prompt, no picture, no path of your machine, no name of a file that was left "
    "out, and no time. The same input gives the same bytes.",
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
        FormatField("trained.sha256", "text", "of the edit's file of tensors", _TRAINED),
        FormatField("trained.count", "integer", "its tensors", _TRAINED),
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
        FormatField("files[].trained.*", "text", "tensor name -> sha256 of its new bytes", _TRAINED),
        FormatField("files[].source.path", "text", "the file it was made from, within the source"),
        FormatField("files[].source.bytes", "integer", "its size"),
        FormatField("files[].source.sha256", "text or null", "as above"),
        FormatField("files[].source.value_layers_sha256", "text", "as above, before", _HASHED),
        FormatField("left_out", "list", "files of the source that the output lacks, counted, never named"),
        FormatField("left_out[].role", "text", "what they are"),
        FormatField("left_out[].reason", "text", "why they were left out"),
        FormatField("left_out[].count", "integer", "how many"),
        FormatField("left_out[].bytes", "integer", "their size"),
        FormatField("verified.files", "integer", "files that were read again before publishing"),
        FormatField("verified.weight_files", "integer", "of these, files of weights"),
        FormatField("verified.value_layers", "integer", "value layers compared with the source"),
        FormatField("verified.rows_compared", "integer", "their rows"),
        FormatField("verified.rows_zero", "integer", "of these, rows that must be zero and are"),
        *_published_fields(),
    ),
)
