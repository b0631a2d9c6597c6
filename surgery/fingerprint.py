"""A fingerprint of a denoiser: were these neurons found in this model?

Row numbers mean nothing in another model, so `neurons.json` carries a sketch of the value layers it was
found in, and `patch` compares it with the checkpoint at hand. A hash of the bytes would differ between the
float32, float16 and bfloat16 copies of ONE model; the sketch is therefore made of numbers: the shape of every
value layer and the Euclidean norms of eight rows spread evenly over it. Rounding to half precision moves such
a norm by about 1e-5 of its size (errors of single weights average out), fine-tuning moves it far more; two
sketches match when every norm agrees to within `TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy

SCHEME = "row-norms/1"
ROWS_SKETCHED = 8
TOLERANCE = 5e-4  # relative; bfloat16 rounding stays below 1e-4 for rows of 64 weights and more

ReadRow = Callable[[int], numpy.ndarray]


def sketched_rows(rows: int) -> list[int]:
    """The rows whose norms stand in the sketch of a layer of `rows` rows: evenly spread, both ends in."""
    return sorted({round(position) for position in numpy.linspace(0, rows - 1, ROWS_SKETCHED)})


def fingerprint(layers: Mapping[str, tuple[tuple[int, int], ReadRow]]) -> dict[str, Any]:
    """Sketch the value layers of one denoiser.

    Args:
        layers: diffusers layer name -> ((rows, columns), a function from a row number to that row's weights
            as a 1-D array of any floating dtype).

    Returns:
        ``{"scheme": "row-norms/1", "layers": {name: {"shape": [rows, columns], "norms": [...]}}}``, layers
        sorted by name, norms rounded to six significant digits.
    """
    sketch = {}
    for name in sorted(layers):
        (rows, columns), read_row = layers[name]
        norms = [
            float(f"{numpy.linalg.norm(numpy.asarray(read_row(row), dtype=numpy.float64)):.6g}")
            for row in sketched_rows(rows)
        ]
        sketch[name] = {"shape": [rows, columns], "norms": norms}
    return {"scheme": SCHEME, "layers": sketch}


def difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Say in a few words where two fingerprints differ, or None where they match.

    Layers that only one side lists are a difference, except that `expected` may cover a part of the layers.
    """
    if expected.get("scheme") != found.get("scheme"):
        return f"its scheme is {expected.get('scheme')!r}, not {found.get('scheme')!r}"
    if not expected["layers"]:
        return "the fingerprint names no layer"
    for name, layer in expected["layers"].items():
        other = found["layers"].get(name)
        if other is None:
            return f"the checkpoint has no value layer {name}"
        if list(layer["shape"]) != list(other["shape"]):
            return f"{name} has shape {layer['shape']} there and {other['shape']} here"
        if not numpy.allclose(layer["norms"], other["norms"], rtol=TOLERANCE, atol=1e-6):
            return f"the weights of {name} differ"
    return None
