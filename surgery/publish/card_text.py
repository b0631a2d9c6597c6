"""The section that surgery writes into a model card: a function of the manifest, and of nothing else.

Said are, in words for somebody who has never heard of the tool, what was done, what was measured, what was
not, where the limits are, and how to check all of it. Verdicts and the accepted risk stand there verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surgery.publish.evidence import gate_reason
from surgery.publish.words import MEANINGS, WORDS

BEGIN, END = (
    "<!-- surgery: this section is made from the manifest -->",
    "<!-- end of the section by surgery -->",
)
_OF_A_FILE = {"path", "role", "action", "bytes", "sha256", "value_layers_sha256", "source", "zeroed"}
_WARNINGS = (
    "A LoRA or another adapter that was trained on the source model, or on the images, refills what was "
    "zeroed when it is loaded.",
    "Memories of captions that were not in the audited corpus are still there; the retrieval of other images "
    "was not tested.",
    "Other copies of the source model, and earlier commits of this repository, are not changed by this.",
    "An audit speaks of the attacks it made, with the effort it made them with, and of no other attacker.",
)


def card_section(manifest: Mapping[str, Any]) -> str:
    """The section, between its two marks, as Markdown that ends in a line break.

    Args:
        manifest: with its section `published`.
    """
    published = manifest["published"]
    audit = published["audit"]
    parts = [
        BEGIN,
        "# Memorized images: what was done to these weights",
        *_done(manifest),
        "## What was measured",
        *_measured(audit, published["prompts"]),
        "## What was not measured",
        *_not_measured(audit),
        *_accepted(published),
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in _WARNINGS),
        "## How to verify",
        *_how_to_verify(manifest),
        "*What stands below is the source model's own card, if it had one; it speaks of the source model.*",
        END,
    ]
    return "\n\n".join(parts) + "\n"


def quoted(text: object) -> str:
    """Text of others as a code span on one line: no Markdown and no HTML of it takes effect."""
    line = " ".join(str(text).split()).replace("<!--", "<! --")  # the marks of the section are comments
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def _done(manifest: Mapping[str, Any]) -> Iterator[str]:
    source, neurons = manifest["source"], manifest["neurons"]
    revision = f", revision {quoted(source['revision'])}" if source["revision"] else ""
    yield (
        f"These are the weights of {quoted(source['name'])} ({quoted(source['family'])}{revision}), edited "
        f"with `surgery` {quoted(manifest['versions']['surgery'])} to take memorized training images away."
    )
    copies = manifest["copies"]
    lines = [
        f"- Output rows of cross-attention value layers that are zero: {neurons['count']}, in "
        f"{_counted(len(neurons['layers']), 'layer')}, in every copy of the denoiser: "
        + ", ".join(f"{quoted(copy['label'])} ({'/'.join(copy['dtypes'])})" for copy in copies)
        + "."
    ]
    for name, count in _other_edits(manifest["files"]).items():
        lines.append(
            f"- Besides, {_counted(count, 'tensor')} with other contents ({quoted(name)} in the manifest)."
        )
    left_out = sum(entry["count"] for entry in manifest["left_out"])
    if left_out:
        lines.append(
            f"- Left out: {_counted(left_out, 'file')} of the source that a pipeline does not need or that "
            "could not be edited."
        )
    lines.append("- Every other weight is the source's.")
    lines += _found_with(manifest["published"].get("method"))
    yield "\n".join(lines)


def _found_with(method: Mapping[str, Any] | None) -> Iterator[str]:
    """How the rows were found, where the manifest says it."""
    search = (method or {}).get("localization")
    if not search or not {"criterion", "seeds"} <= search["settings"].keys():
        return
    settings, fresh = search["settings"], search["settings"].get("confirm_seeds", 0)
    yield (
        f"- The rows were found prompt by prompt, by the criterion {quoted(settings['criterion'])} on "
        f"{settings['seeds']} seeds, and confirmed on {fresh} fresh ones; thresholds, seeds and versions are "
        "in the manifest."
    )


def _other_edits(files: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Name of an edit besides zeroed rows -> in how many tensors."""
    found: dict[str, int] = {}
    for entry in files:
        for name, tensors in entry.items():
            if name not in _OF_A_FILE and isinstance(tensors, dict):
                found[name] = found.get(name, 0) + len(tensors)
    return found


def _measured(audit: Mapping[str, Any] | None, prompts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if audit is None:
        yield "Nothing: no audit of these weights is recorded."
        return
    reason = _sentence(audit["reason"])
    yield f"The audit's verdict, verbatim: **{_escaped(audit['phrase'])}**. {reason}".rstrip()
    counts = {word: audit["counts"][word] for word in WORDS if audit["counts"].get(word)}
    if counts:
        lines = [
            f"- {quoted(word)}: {_counted(count, 'prompt')}; {MEANINGS[word]}."
            for word, count in counts.items()
        ]
        yield f"By prompt ({sum(counts.values())} audited):"
        yield "\n".join(lines)
    phrases: dict[str, int] = {}
    for prompt in prompts:
        phrases[prompt["phrase"]] = phrases.get(prompt["phrase"], 0) + 1
    if phrases.keys() - counts.keys():
        yield "With the effort of the attacks, verbatim:"
        yield "\n".join(f"- {quoted(phrase)}: {count}" for phrase, count in phrases.items())
    if audit["attacks"]:
        yield "The attacks on the weights, from the audit:"
        yield "\n".join(_lines(audit["attacks"], ""))
    elif audit["attacks"] is not None:
        yield "No attack on the weights was made."


def _not_measured(audit: Mapping[str, Any] | None) -> Iterator[str]:
    lines = []
    if audit is None:
        lines.append("- Whether the images still come out of these weights, by prompt or under attack.")
    else:
        if not audit["complete"]:
            lines.append("- The audit was stopped before its end: what it did not reach was not measured.")
        if not audit["attacks"]:
            lines.append("- Whether an attacker still gets the images out: no attack was made.")
        if not audit["bound"]:
            lines.append("- Whether the audit was made on these weight files: it does not name them.")
        untested = audit["counts"].get(WORDS[-1], 0)
        if untested:
            lines.append(
                f"- {_counted(untested, 'prompt')} of the corpus: the verdict is {quoted(WORDS[-1])}."
            )
    lines.append("- Attacks and efforts other than those above, and images that nobody named.")
    lines.append(
        "- Figures of the source's card and metadata: they are the source's, and were not taken again."
    )
    yield "\n".join(lines)


def _accepted(published: Mapping[str, Any]) -> Iterator[str]:
    gate = published["gate"]
    if gate["passed"]:
        return
    accepted = gate["accepted_risk"]
    yield "## Published although the gate is shut" if accepted else "## Not cleared for publishing"
    reason = _escaped(gate_reason(published["audit"]))
    yield f"The gate for publishing is the verdict `removed`; here, {reason}."
    if accepted:
        yield f"Who published these weights accepts that risk, and gives this reason: {quoted(accepted)}"


def _how_to_verify(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "The manifest (`surgery-manifest.json`) lists every file with its sha256, and every zeroed row. With "
        "the tool installed, this checks all of it against the files, and, with the source at hand, that "
        "nothing else differs:"
    )
    yield "```bash\nsurgery verify FOLDER\nsurgery verify FOLDER --source SOURCE\n```"


def _lines(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    """A summary as nested bullets, in its own words."""
    for name, inner in value.items():
        shown = _escaped(str(name).replace("_", " "))
        if isinstance(inner, dict):
            yield f"{indent}- {shown}:"
            yield from _lines(inner, indent + "  ")
        elif isinstance(inner, list):
            if all(not isinstance(one, dict | list) for one in inner):
                yield f"{indent}- {shown}: {', '.join(_escaped(_shown(one)) for one in inner)}"
            else:
                yield f"{indent}- {shown}:"
                for position, one in enumerate(inner):
                    yield from _lines({str(position + 1): one}, indent + "  ")
        else:
            yield f"{indent}- {shown}: {_escaped(_shown(inner))}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sentence(text: str) -> str:
    text = _escaped(text)
    return f"{text[:1].upper()}{text[1:]}." if text and not text.endswith(".") else text


def _escaped(text: str) -> str:
    """Text in which Markdown and HTML take no effect."""
    return re.sub(r"([\\`*_\[\]<>#|!])", r"\\\1", " ".join(text.split()))
