"""What the testbed brings: demo.json, planted.json."""

from __future__ import annotations

from surgery.formats.fields import (
    Format,
    FormatField,
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
