"""What a field and a format are, and the groups of fields that several documents share."""

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


def work_fields(path: str, whose: str) -> tuple[FormatField, ...]:
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


def score_fields(path: str) -> tuple[FormatField, ...]:
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


def fingerprint_fields(path: str) -> tuple[FormatField, ...]:
    return (
        FormatField(path, "object", "sketch of all value layers, by which the model is recognized"),
        FormatField(f"{path}.scheme", "text", "`row-norms/1`"),
        FormatField(f"{path}.layers.*.shape", "list of integer", "rows and columns of the layer"),
        FormatField(
            f"{path}.layers.*.norms", "list of number", "Euclidean norms of eight rows spread over it"
        ),
    )


CORPUS_FIELDS = (
    FormatField("corpus.source", "text", "name of the prompts file"),
    FormatField("corpus.rows", "integer", "rows read"),
    FormatField("corpus.prompts", "integer", "different prompts"),
    FormatField("corpus.blank", "integer", "blank rows, dropped"),
    FormatField("corpus.repeated", "integer", "repeated captions, dropped"),
    FormatField("corpus.broken", "integer", "rows that could not be read, skipped"),
)
