"""What `calibrate` and `scan` write: the calibration, the ranking and its journal."""

from __future__ import annotations

from surgery.formats.fields import Format, FormatField, fingerprint_fields, score_fields

CALIBRATION = Format(
    name="calibration",
    tag="surgery.calibration/1",
    file="where `-o` says",
    written_by="`surgery calibrate`",
    public="Yes: it quotes no caption; it names the file that they came from.",
    shape="a safetensors file; the metadata key `surgery` holds a JSON object with these fields",
    fields=(
        FormatField("format", "text", "the tag"),
        *fingerprint_fields("fingerprint"),
        FormatField("prompts", "integer", "ordinary prompts behind the activation statistics"),
        *score_fields("scores"),
        FormatField(
            "made_with.*",
            "any",
            "`seeds`, `seed`, `inference_steps`, `step_index`, `guidance`, `projection`, `confirm_seeds`, "
            "`confirm_seed`: a calibration made with others of these is refused",
        ),
        FormatField("source", "text", "where the ordinary prompts came from"),
        FormatField("versions.*", "text", "of surgery, torch, diffusers, transformers"),
        FormatField("cutoff", "number or null", "`--cutoff`; null: each criterion's own"),
        FormatField("looks", "object or null", "what the first few seeds tell, for `scan`; null: not known"),
        FormatField("looks.order", "list of integer", "positions of the seeds, the most telling first"),
        FormatField(
            "looks.lines.*.*",
            "object",
            "detector -> number of seeds -> the regression of the score over these on that over all",
        ),
        FormatField("looks.lines.*.*.intercept", "number", "of the line"),
        FormatField("looks.lines.*.*.slope", "number", "of the line"),
        FormatField("looks.lines.*.*.deviation", "number", "standard deviation of the residuals"),
        FormatField("looks.lines.*.*.mean", "number", "of the scores over all seeds"),
        FormatField("looks.lines.*.*.squares", "number", "sum of squares of these about their mean"),
        FormatField("looks.lines.*.*.prompts", "integer", "ordinary prompts that it was fitted on"),
    ),
    tensors=(
        FormatField(
            "mean/*", "float32 [rows]", "mean activation of every row of a value layer, up blocks too"
        ),
        FormatField("std/*", "float32 [rows]", "standard deviation of the same"),
    ),
)

SCAN_JOURNAL = Format(
    name="journal of scan",
    tag="surgery.scan-journal/1",
    file="`OUTPUT.journal`, or where `--journal` says; `NAME.1`, `NAME.2`, ... for further processes",
    written_by="`surgery scan`, while it runs; removed at the end unless `--journal` named it",
    public="No: it quotes the prompts of your corpus.",
    shape="JSON lines; the first has these fields, each further line is as one of the ranking, its score in "
    "full",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("run.settings.*", "any", "every setting of the run but the batch size"),
        FormatField("run.detector", "text", "`--detector`"),
        FormatField("run.threshold", "number", "scores above it count as memorized"),
        FormatField("run.test.order", "list of integer", "positions of the seeds, as they are looked at"),
        FormatField("run.test.stops[].seeds", "integer", "after so many seeds a prompt may be done"),
        FormatField("run.test.stops[].bound", "number", "if it scores at most this over them"),
        FormatField("run.test.miss", "number", "`--miss`; 0 where all seeds are looked at"),
        FormatField("run.images", "object or null", "what the training images said; null without `--images`"),
        FormatField(
            "run.images.*", "integer", "pictures, featureless, without caption, duplicated; captions"
        ),
        *fingerprint_fields("run.fingerprint"),
        FormatField("run.computes_in", "text", "as in neurons.json; a journal of another type is refused"),
    ),
)

SCAN = Format(
    name="ranking",
    tag="",
    file="where `-o` says",
    written_by="`surgery scan`",
    public="No: it quotes the prompts of your corpus.",
    shape="JSON lines, memorized prompts first, then by score; each line has these fields",
    fields=(
        FormatField("prompt", "text", "the caption"),
        FormatField("score", "number", "the detector's score over the seeds that were looked at"),
        FormatField("memorized", "boolean", "whether all seeds were, and it lies above the threshold"),
        FormatField("seeds", "integer", "how many were looked at; all, unless the first few were ordinary"),
        FormatField("copies", "integer", "near-duplicates of its training image", "with `--images`"),
    ),
)
