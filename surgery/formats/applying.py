"""What people write for `surgery apply`, and what it keeps for itself: recipes, and the state of one."""

from __future__ import annotations

from surgery.formats.fields import (
    Format,
    FormatField,
)

_NEEDED = "as you need"
_DONE = "of steps that are done"

RECIPE = Format(
    name="recipe",
    tag="surgery.recipe/2",
    file="yours; the folder `recipes/` has one for each model family",
    written_by="a person; read by `surgery apply`",
    public="Yes: it holds no prompt. It names files.",
    shape="a TOML file; relative paths count from its folder, and unknown keys are errors",
    fields=(
        FormatField("format", "text", "the tag; `surgery.recipe/1` is still read"),
        FormatField("description", "text", "free text", "if you like"),
        FormatField("model.source", "text", "path or Hub id; or `--model`", "if not given with `--model`"),
        FormatField("model.revision", "text", "branch, tag or commit", "for a Hub id"),
        FormatField("model.variant", "text", "weight-file variant, such as `fp16`", "if not the default"),
        FormatField("corpus.prompts", "text", "the captions", "if not given with `--prompts`"),
        FormatField("corpus.column", "text", "the caption column", "if it is not found by its name"),
        FormatField("corpus.limit", "integer", "the first N different captions", "if not all"),
        FormatField(
            "corpus.images",
            "text",
            "folder of training images, as `surgery audit --images` reads it",
            _NEEDED,
        ),
        FormatField(
            "corpus.ordinary",
            "text",
            "ordinary captions: to calibrate on, to keep as they are, to look at in the audit",
            "if not the model's own, or the shipped ones",
        ),
        FormatField(
            "calibrate.file", "text", "made by `surgery calibrate` for this model", "if not made now"
        ),
        FormatField(
            "calibrate.score_prompts", "integer", "ordinary captions that run through the denoiser", _NEEDED
        ),
        FormatField(
            "localize.neurons",
            "text",
            "a `neurons.json`: nothing is calibrated or searched, and no other key may stand here",
            "where neurons are given",
        ),
        FormatField("localize.*", "any", "any setting of `surgery localize`", _NEEDED),
        FormatField(
            "aggregate.minimum_prompts", "integer", "neurons found for at least N prompts", "if not 1"
        ),
        FormatField("aggregate.most_frequent", "integer", "of these, the N found most often", "if not all"),
        FormatField("aggregate.per_layer", "boolean", "N in each layer instead of overall", "if true"),
        FormatField("harden.data", "text", "pictures with captions that must stay as they are", _NEEDED),
        FormatField("harden.similarity", "text", "the measure", "if not the one that fits the size"),
        FormatField(
            "harden.keep_going", "boolean", "patch although the gate of hardening does not hold", "if true"
        ),
        FormatField("harden.*", "any", "any setting of `surgery harden`", _NEEDED),
        FormatField(
            "patch.any_model", "boolean", "allow neurons that were found in another model", "if true"
        ),
        FormatField("patch.keep", "list of text", "further files of the source to carry over", _NEEDED),
        FormatField(
            "patch.follow_links", "boolean", "carry over text files linked from outside the source", "if true"
        ),
        FormatField(
            "patch.strict", "boolean", "refuse a denoiser that text enters by other ways too", "if true"
        ),
        FormatField("patch.sha256", "boolean", "hash every byte for the manifest", "if true"),
        FormatField(
            "audit.require",
            "text",
            "the gate: `attack` (the verdict is `removed`), `replication` (no prompt draws it), `none`",
            "if not `attack`",
        ),
        FormatField(
            "audit.only_memorized",
            "boolean",
            "audit only prompts that localization calls memorized: cheaper, and blind to what it missed",
            "if true",
        ),
        FormatField(
            "audit.control_images", "text", "pictures that no model saw", "if not made by the source"
        ),
        FormatField("audit.twin", "text", "a model like the source that never saw the images", _NEEDED),
        FormatField("audit.base", "text", "the public model that the source was made from", _NEEDED),
        FormatField("audit.clip", "text", "folder of a CLIP model, for the CLIP score", _NEEDED),
        FormatField("audit.fid_reference", "text", "reference pictures, for FID and KID", _NEEDED),
        FormatField("audit.fid_features", "text", "TorchScript feature extractor for them", _NEEDED),
        FormatField("audit.max_forwards", "integer", "stop after N UNet sample-forwards", _NEEDED),
        FormatField("audit.*", "any", "any setting of `surgery audit`", _NEEDED),
        FormatField("card.file", "text", "the card that is kept", "if not the source's"),
        FormatField("card.base_model", "text", "Hub id of the source", "where the source is a folder"),
        FormatField("card.fields.*", "any", "further metadata of the card, such as `license`", _NEEDED),
        FormatField(
            "publish.repo_id", "text", "where the folder is meant to go; nothing is sent", "if you like"
        ),
    ),
)

APPLY_STATE = Format(
    name="state of an application",
    tag="surgery.apply-state/1",
    file="`state.json` in the working folder of `surgery apply` (`OUT.evidence`)",
    written_by="`surgery apply`, after every step",
    public="No: it names paths of your machine; prompts in it are hashed without a salt.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("output", "text", "the output that the working folder belongs to"),
        FormatField(
            "claimed",
            "boolean",
            "whether the output was free when it was first written, and so may be replaced",
        ),
        FormatField("steps.*", "object", "one entry per step that was started"),
        FormatField("steps.*.inputs.*", "text", "sha256 of everything the step depends on, by name"),
        FormatField("steps.*.done", "boolean", "whether it came to its end"),
        FormatField("steps.*.left.*", "text", "sha256 of what it left, by name", _DONE),
        FormatField("steps.*.facts", "any", "what it found, for the summary"),
        FormatField("steps.*.seconds", "number", "that it took"),
        FormatField(
            "files.*", "object", "a file that was hashed: with the same state, it is not read again", _DONE
        ),
        FormatField(
            "files.*.state", "list of integer", "size, times in nanoseconds, number of the file", _DONE
        ),
        FormatField("files.*.sha256", "text", "of its bytes", _DONE),
    ),
)
