"""What `surgery harden` writes: an edit, its record, and the state that it goes on from."""

from __future__ import annotations

from surgery.formats.fields import (
    Format,
    FormatField,
)

_TRAINED = "where tensors were trained"

EDIT = Format(
    name="edit",
    tag="surgery.edit/1",
    file="`edit.json` in the folder that `-o` says, `edit.safetensors` beside it where tensors were trained",
    written_by="`surgery harden`; read by `patch`, and by `diff --plan`",
    public="Yes: it holds no prompt and no picture, and its tensors are a part of the patched weights.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("rung", "text", "how it was made: `zeroed`, `closed`, `hardened`"),
        FormatField("layers.*", "list of integer", "diffusers layer name -> rows that become zero"),
        FormatField("tensors", "object or null", "the file beside it; null where no tensor was trained"),
        FormatField("tensors.sha256", "text", "of `edit.safetensors`", _TRAINED),
        FormatField("tensors.count", "integer", "its tensors, under diffusers' names", _TRAINED),
        FormatField("fingerprint", "any", "of the denoiser that it is for, as in `neurons.json`"),
        FormatField("settings", "any", "every setting (`HardenSettings`)"),
        FormatField("versions.*", "text", "of the libraries that made it"),
    ),
)

HARDENING = Format(
    name="hardening record",
    tag="surgery.hardening/1",
    file="`hardening.json` in the folder of the edit",
    written_by="`surgery harden`",
    public="Yes: prompts are salted hashes, and the salt is thrown away.",
    shape="a JSON object",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("holds", "boolean", "whether the gate holds on the rung where it ended"),
        FormatField("rung", "text", "that rung"),
        FormatField("prompts", "list", "the memories, in the order of the prompts file"),
        FormatField("prompts[].id", "text", "a salted hash"),
        FormatField("prompts[].resolved_by_rows", "boolean", "whether zeroed rows took it from its prompt"),
        FormatField("prompts[].leaking_neighbors", "integer", "neighbor prompts that draw it all the same"),
        FormatField("rungs", "list", "every rung that was climbed"),
        FormatField("rungs[].name", "text", "`zeroed`, `closed` or `hardened`"),
        FormatField("rungs[].gate.scores.*", "list of number", "attack -> each memory's best picture"),
        FormatField("rungs[].gate.controls.*", "list of number", "attack -> each control's best picture"),
        FormatField("rungs[].gate.found", "list of integer", "places of the memories that were found"),
        FormatField("rungs[].gate.change", "number", "of ordinary prompts, in units of a seed's"),
        FormatField("rungs[].gate.neighbor_change", "number or null", "of neighbors; null without any"),
        FormatField("rungs[].gate.holds", "boolean", "whether the gate holds"),
        FormatField("rungs[].rounds", "list", "one entry per round"),
        FormatField("rungs[].rounds[].terms.*", "number", "the mean of each term of the loss"),
        FormatField("rungs[].rounds[].stages.*.sample_forwards", "integer", "UNet sample-forwards"),
        FormatField("rungs[].rounds[].stages.*.seconds", "number", "wall time"),
        FormatField("work.gathered", "integer", "of these, spent before the first rung"),
        FormatField("work.sample_forwards", "integer", "UNet sample-forwards of this run"),
        FormatField("settings.*", "any", "every setting (`HardenSettings`)"),
        FormatField("similarity.name", "text", "the measure"),
        FormatField("similarity.threshold", "number", "a replica from here up"),
        FormatField("versions.*", "text", "of the libraries"),
    ),
)

HARDENING_STATE = Format(
    name="state of a hardening",
    tag="surgery.hardening-state/2",
    file="`.NAME.hardening/` beside the edit, readable by its owner only",
    written_by="`surgery harden`, while it runs; removed once the edit is written",
    public="No: it holds attacked embeddings, which draw memories from SOURCE.",
    shape="`round-RUNG.pt` (tensors of its latest round), `rung-zeroed.json`; `header.json` has "
    "these fields, and a run with other ones refuses to go on from it",
    fields=(
        FormatField("format", "text", "the tag"),
        FormatField("settings.*", "any", "every setting but `rounds`: more of them go on"),
        FormatField("model", "text", "sha256 of the fingerprint of SOURCE"),
        FormatField("neurons.*", "list of integer", "layer -> rows"),
        FormatField("prompts", "text", "sha256 over the prompts"),
        FormatField("images", "text", "sha256 over the pictures"),
        FormatField("masks", "text", "sha256 over the masks"),
        FormatField("data", "text", "sha256 over the further pictures"),
        FormatField("ordinary", "text", "sha256 over the ordinary prompts"),
    ),
)
