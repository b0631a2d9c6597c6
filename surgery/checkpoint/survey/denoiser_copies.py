"""The copies of the denoiser in a checkpoint, and the value layers of each.

One checkpoint may hold the same denoiser many times: half precision beside full, EMA beside not, shards,
single files at the root. A copy left untouched republishes the memory, so each is listed, with the place of
every value layer's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import Weights
from surgery.checkpoint.names.single_file import split_single_file
from surgery.checkpoint.names.value_layers import DIFFUSERS, EMA, value_name
from surgery.errors import UsageError

FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
# dtypes of matrices that only quantization produces
PACKED = frozenset(
    {"U8", "I8", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
)


@dataclass(frozen=True, slots=True)
class ValueLayer:
    """One value layer of one copy: a weight of shape [rows, columns] and perhaps a bias of shape [rows].

    Attributes:
        name: the diffusers module name, without `.weight`.
        file: the file's path within the checkpoint.
        weight, bias: where the tensors lie in `file` (the bias may lie in another shard: `bias_file`).
    """

    name: str
    file: str
    weight: Tensor
    bias: Tensor | None = None
    bias_file: str = ""

    @property
    def rows(self) -> int:
        """The number of neurons."""
        return self.weight.shape[0] if self.weight.shape else 0

    @property
    def columns(self) -> int:
        """The width of the text embedding it reads."""
        return self.weight.shape[1] if len(self.weight.shape) == 2 else 0

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The weight and the bias, each with its file."""
        return [(self.file, self.weight)] + ([(self.bias_file, self.bias)] if self.bias else [])


@dataclass(frozen=True, slots=True)
class DenoiserCopy:
    """One complete set of the denoiser's value layers.

    Attributes:
        label: how people call it: `unet`, `unet (fp16)`, `model.safetensors (EMA)`.
        component: the pipeline component it belongs to, or "" for a single file.
        variant: `fp16`, `non_ema`, ... or "".
        naming: `diffusers`, `single file` or `EMA`.
        files: the files that hold it.
        layers: diffusers layer name -> its value layer.
        shards: path and opened weights of the files.
    """

    label: str
    component: str
    variant: str
    naming: str
    files: tuple[str, ...]
    layers: Mapping[str, ValueLayer]
    shards: tuple[tuple[str, Weights], ...] = ()

    @property
    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        """Diffusers tensor name -> (file, where it lies), of all that has such a name, when asked."""
        return _tensors_of(self.naming, self.shards)

    @property
    def is_ema(self) -> bool:
        """Whether it is the EMA twin inside a single file."""
        return self.naming == EMA

    @property
    def dtypes(self) -> list[str]:
        """The dtypes of its value layers, sorted."""
        return sorted({layer.weight.dtype for layer in self.layers.values()})


def find_copies(
    label: str, component: str, variant: str, files: Iterable[tuple[str, Weights]]
) -> list[DenoiserCopy]:
    """The denoiser copies in one file, or in the shards of one copy: one for every naming that occurs.

    Args:
        label: what they are called; the EMA twin gets `(EMA)` after it.
        component: the pipeline component, or "".
        variant: the variant, or "".
        files: path within the checkpoint and weights, of all shards.

    Raises:
        UsageError: two shards hold the same value layer.
    """
    found: dict[str, dict[str, dict[str, tuple[str, Tensor]]]] = {}
    shards = list(files)
    for path, weights in shards:
        for key, tensor in weights.header.tensors.items():
            if name := value_name(key):
                parts = found.setdefault(name.naming, {}).setdefault(name.layer, {})
                if name.kind in parts:
                    raise UsageError(path, f"{key} is in {parts[name.kind][0]} too", "save the model again")
                parts[name.kind] = (path, tensor)
    copies = []
    for naming, layers in found.items():
        value_layers = {}
        for layer, parts in layers.items():
            bias_file, bias = parts.get("bias", ("", None))
            if "weight" in parts:
                value_layers[layer] = ValueLayer(layer, *parts["weight"], bias, bias_file)
        shown = f"{label} (EMA)" if naming == EMA else label
        paths = tuple(path for path, _ in shards)
        copies.append(DenoiserCopy(shown, component, variant, naming, paths, value_layers, tuple(shards)))
    return copies


def _tensors_of(naming: str, shards: Iterable[tuple[str, Weights]]) -> dict[str, tuple[str, Tensor]]:
    """Every tensor of a copy under its diffusers name; in a single file, other parts have none."""
    found: dict[str, tuple[str, Tensor]] = {}
    for path, weights in shards:
        keys = weights.header.tensors
        if naming == DIFFUSERS:
            found |= {key: (path, tensor) for key, tensor in keys.items()}
            continue
        variant = "EMA" if naming == EMA else ""
        names = split_single_file(keys).get(("unet", variant), {})
        found |= {name: (path, keys[key]) for name, key in names.items()}
    return found
