"""`surgery-manifest.json`: what was done to a checkpoint, as a fact that others can check.

Every field of the format `surgery.manifest/2` is described in `surgery.formats`. Files up to 64 MB are hashed
whole; of larger ones the header and the value layers, unless hashing whole files was asked for. The manifest
holds no prompt, no picture, no path of the machine it was written on, and of the files that were left out no
name: names of samples are often the prompts. `PatchResult.left_out` and `--json` have them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.edit.writing import side_content
from surgery.neurons import NeuronSet

if TYPE_CHECKING:
    from surgery.checkpoint.edit.hashing import Hashes
    from surgery.checkpoint.edit.plan import FileTask, Plan
    from surgery.checkpoint.survey.denoiser_copies import DenoiserCopy
    from surgery.checkpoint.survey.roles import CheckpointFile

FORMAT = "surgery.manifest/2"
_NUMBERS = re.compile(r"\[\n((?:\s+\d+,?\n)+)\s+\]")


def make_manifest(
    plan: Plan, family: str, hashes: Mapping[str, Hashes], verified: Mapping[str, int]
) -> dict[str, Any]:
    """The manifest of an output.

    Args:
        plan: what was done.
        family: the model family, for people.
        hashes: path in the source -> its hashes, and those of the file in the output.
        verified: counts from the verification.
    """
    source = plan.checkpoint.source
    versions = {"surgery": version("surgery"), "python": platform.python_version()}
    if any(task.file.action == "convert" and task.file.weights for task in plan.tasks):
        versions["torch"] = str(sys.modules["torch"].__version__)
    return {
        "format": FORMAT,
        "versions": versions,
        "source": {
            "name": source.name,
            "kind": plan.checkpoint.kind,
            "family": family,
            "revision": source.revision,
        },
        "neurons": {
            "count": plan.neurons.count,
            "layers": plan.neurons.as_json(),
            "sha256": neurons_sha256(plan.neurons),
            "fingerprint": plan.fingerprint,
        },
        **({"trained": plan.trained} if plan.trained else {}),
        "copies": [_copy_entry(copy, plan.tasks) for copy in plan.copies],
        "files": [_file_entry(task, hashes[task.file.path]) for task in plan.tasks],
        "left_out": _left_out(plan.left_out),
        "verified": dict(verified),
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as the text of its file; lists of rows stand on one line."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    return _NUMBERS.sub(lambda match: "[" + ", ".join(match[1].replace(",", " ").split()) + "]", text)


def neurons_sha256(neurons: NeuronSet) -> str:
    """sha256 of a `NeuronSet`: of its layers as JSON with sorted keys and no spaces."""
    text = json.dumps(neurons.as_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _copy_entry(copy: DenoiserCopy, tasks: tuple[FileTask, ...]) -> dict[str, Any]:
    outputs = {task.file.path: task.file.output for task in tasks}
    return {
        "label": copy.label,
        "naming": copy.naming,
        "variant": copy.variant,
        "dtypes": copy.dtypes,
        "files": [outputs[path] for path in copy.files],
    }


def _file_entry(task: FileTask, hashes: Hashes) -> dict[str, Any]:
    file = task.file
    source: dict[str, Any] = {"path": file.path, "bytes": file.bytes, "sha256": hashes.source}
    entry: dict[str, Any] = {
        "path": file.output,
        "role": file.role,
        "action": file.action,
        "bytes": len(side_content(task)) if file.weights is None else task.output_bytes,
        "sha256": hashes.output,
        "source": source,
    }
    if hashes.output_value_layers:
        entry["value_layers_sha256"] = hashes.output_value_layers
        source["value_layers_sha256"] = hashes.source_value_layers
    for edit in task.edits:
        entry.setdefault(edit.content.name, {})[edit.tensor.name] = edit.content.entry(edit)
    return entry


def _left_out(files: Iterable[CheckpointFile]) -> list[dict[str, Any]]:
    """How many files were left out, by role and reason; after a colon, a reason may quote names."""
    groups: dict[tuple[str, str], list[int]] = {}
    for file in files:
        groups.setdefault((file.role, file.reason.partition(":")[0]), []).append(file.bytes)
    return [
        {"role": role, "reason": reason, "count": len(sizes), "bytes": sum(sizes)}
        for (role, reason), sizes in sorted(groups.items())
    ]
