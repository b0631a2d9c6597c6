"""What the name of a file in a checkpoint folder says: which weights, which variant, which other framework.

The patterns are those of diffusers (`utils/constants.py`, `pipelines/pipeline_loading_utils.py`) and
transformers. Names decide only what MAY be carried over; what a weight file holds is read from its header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

MODEL_INDEX, CONFIGURATION = "model_index.json", "config.json"
MANIFEST_NAME = "surgery-manifest.json"
# pickles and the stem that takes their place when they are written as safetensors
SAFETENSORS_STEMS = {
    "diffusion_pytorch_model": "diffusion_pytorch_model",
    "pytorch_model": "model",
    "model": "model",
}
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})

COMPONENT_SIDE_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "scheduler_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "image_processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
        "chat_template.json",
        "chat_template.jinja",
    }
)
LICENSE_FILE = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)([-._][\w.-]*)?", re.IGNORECASE)

OTHER_WEIGHTS = {
    ".msgpack": "a Flax copy of the weights",
    ".onnx": "an ONNX copy of the weights",
    ".onnx_data": "an ONNX copy of the weights",
    ".pb": "an ONNX or TensorFlow copy of the weights",
    ".h5": "a TensorFlow copy of the weights",
    ".tflite": "a TensorFlow copy of the weights",
    ".xml": "an OpenVINO copy of the weights",
    ".mlmodel": "a Core ML copy of the weights",
    ".mlpackage": "a Core ML copy of the weights",
    ".flashpack": "a flashpack copy of the weights",
    ".gguf": "a quantized GGUF copy of the weights",
    ".engine": "a TensorRT copy of the weights",
    ".npz": "arrays that may be weights",
    ".npy": "arrays that may be weights",
    ".zip": "an archive, which may hold weights",
    ".tar": "an archive, which may hold weights",
    ".gz": "an archive, which may hold weights",
    ".xz": "an archive, which may hold weights",
    ".zst": "an archive, which may hold weights",
    ".bz2": "an archive, which may hold weights",
    ".7z": "an archive, which may hold weights",
    ".rar": "an archive, which may hold weights",
}

_VARIANT = r"[A-Za-z0-9_]+(?:-[A-Za-z_][A-Za-z0-9_]*)*"
_SHARD = r"\d{5}-of-\d{5}"
_STEM = "|".join(SAFETENSORS_STEMS)
_WEIGHTS = re.compile(
    rf"(?P<stem>{_STEM})(?:\.(?P<variant>{_VARIANT}))?(?:-(?P<shard>{_SHARD}))?\.(?P<suffix>safetensors|bin)"
)
_LEGACY_SHARD = re.compile(
    rf"(?P<stem>{_STEM})-(?P<shard>{_SHARD})\.(?P<variant>{_VARIANT})\.(?P<suffix>safetensors|bin)"
)
_INDEX = re.compile(
    rf"(?P<stem>{_STEM})\.(?P<suffix>safetensors|bin)\.index(?:\.(?P<variant>{_VARIANT}))?\.json"
)
_LEGACY_INDEX = re.compile(
    rf"(?P<stem>{_STEM})\.(?P<suffix>safetensors|bin)\.(?P<variant>{_VARIANT})\.index\.json"
)


@dataclass(frozen=True, slots=True)
class WeightsName:
    """A weight file's or shard index's name, taken apart.

    Attributes:
        stem: `diffusion_pytorch_model`, `model` or `pytorch_model`.
        variant: `fp16`, `non_ema`, ..., or "" for the plain one.
        shard: `00001-of-00002`, or "" for an unsharded file and for an index.
        suffix: `safetensors` or `bin`.
        is_index: whether the file maps tensors to shards.
    """

    stem: str
    variant: str
    shard: str
    suffix: str
    is_index: bool

    @property
    def is_pickle(self) -> bool:
        """Whether the file (or the shards an index names) are torch pickles."""
        return self.suffix == "bin"

    @property
    def copy(self) -> tuple[str, str]:
        """Two files of one component with equal stem (once converted) and variant are the same copy."""
        return SAFETENSORS_STEMS[self.stem], self.variant


def parse_weights_name(name: str) -> WeightsName | None:
    """Take a weight file's or index's name apart; None when it is no name that diffusers would load."""
    for pattern, is_index in (
        (_WEIGHTS, False),
        (_LEGACY_SHARD, False),
        (_INDEX, True),
        (_LEGACY_INDEX, True),
    ):
        if match := pattern.fullmatch(name):
            found = match.groupdict()
            shard, variant = found.get("shard") or "", found.get("variant") or ""
            return WeightsName(found["stem"], variant, shard, found["suffix"], is_index)
    return None


def safetensors_name(name: str) -> str:
    """The name under which a pickle is written as safetensors: `pytorch_model.bin` -> `model.safetensors`."""
    parsed = parse_weights_name(name)
    if parsed is None:
        return PurePosixPath(name).stem + ".safetensors"
    renamed = SAFETENSORS_STEMS[parsed.stem] + name.removeprefix(parsed.stem)
    return renamed.replace(".bin", ".safetensors", 1)


def foreign_weights(name: str) -> str | None:
    """What a file of another framework (or an archive) is, by its name; None for any other file."""
    lowered = name.lower()
    if lowered.startswith("openvino_"):
        return "an OpenVINO copy of the weights"
    return next((what for suffix, what in OTHER_WEIGHTS.items() if lowered.endswith(suffix)), None)
