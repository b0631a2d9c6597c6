"""A calibration as a file: safetensors, never a pickle.

Tensors `mean/LAYER` and `std/LAYER` (float32, [rows]) and, under the one metadata key `surgery`, a JSON
object with format `surgery.calibration/1`, fingerprint, prompt count, score distributions, settings, source
and versions. A single metadata key, because with several the library writes them in an order that differs
from run to run.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.files import expanded, write_atomically
from surgery.localization.calibration import Calibration, Distribution
from surgery.localization.discovery.looks import Looks

FORMAT = "surgery.calibration/1"


def write_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write a calibration atomically.

    Raises:
        UsageError: the folder does not exist or cannot be written.
    """
    from safetensors.torch import save

    tensors = {f"mean/{name}": value.contiguous() for name, value in calibration.mean.items()}
    tensors |= {f"std/{name}": value.contiguous() for name, value in calibration.std.items()}
    facts: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": calibration.fingerprint,
        "prompts": calibration.prompts,
        "scores": {name: asdict(one) for name, one in calibration.scores.items()},
        "made_with": dict(calibration.made_with),
        "source": calibration.source,
        "versions": dict(calibration.versions),
        "cutoff": calibration.cutoff,
        "looks": None if calibration.looks is None else calibration.looks.as_json(),
    }
    write_atomically(path, save(tensors, {"surgery": json.dumps(facts)}))


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration.

    Raises:
        UsageError: there is no such file, or it is no calibration.
    """
    from safetensors import SafetensorError, safe_open

    path = expanded(path)
    if not path.is_file():
        raise UsageError(path, "no such file", "write it with `surgery calibrate`")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("surgery", "{}"))
            if facts.get("format") != FORMAT:
                raise ValueError(f"its format is {facts.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Calibration(
            mean={
                name.removeprefix("mean/"): value
                for name, value in tensors.items()
                if name.startswith("mean/")
            },
            std={
                name.removeprefix("std/"): value for name, value in tensors.items() if name.startswith("std/")
            },
            scores={name: Distribution(**one) for name, one in facts["scores"].items()},
            prompts=facts["prompts"],
            fingerprint=facts["fingerprint"],
            made_with=facts["made_with"],
            source=facts["source"],
            versions=facts["versions"],
            cutoff=facts["cutoff"],
            looks=Looks.from_json(facts["looks"]) if facts.get("looks") else None,
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            path, f"is not a calibration ({cause})", "write it with `surgery calibrate`"
        ) from None
