"""What people write, and what the testbed brings: recipes, demo.json, planted.json."""

from __future__ import annotations

from surgery.formats.fields import (
    Format,
    FormatField,
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
        FormatField("own_guidance.guidance", "number", "the pipeline's own"),
        FormatField("own_guidance.pictures", "integer", "pictures drawn at it with the rows off"),
        FormatField("own_guidance.replicas", "integer", "replicas among them"),
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
