"""Weight sets: what is compared with what. One set is one copy of one component, whatever files it lies in.

A sharded copy and an unsharded one are the same set; so are a pickle and the safetensors file it became,
and a component of a folder and the part of a single file that holds it, under the diffusers names of its
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.checkpoint.formats.weights import Weights
from surgery.checkpoint.names.files import parse_weights_name
from surgery.checkpoint.names.single_file import UNCONVERTED, split_single_file, text_name
from surgery.checkpoint.names.value_layers import DIFFUSERS
from surgery.checkpoint.survey.survey import SINGLE, Checkpoint

Place = tuple[Weights, Tensor]
DENOISER = "unet"  # what a single file's denoiser is called as a component


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One copy of one component.

    Attributes:
        component: its name, "" where the checkpoint is one component or one file without a known structure.
        variant: `fp16`, `non_ema`, `EMA` (inside a single file), ... or "".
        files: the files it lies in.
        tensors: name (diffusers naming where there is one) -> file and place.
    """

    component: str
    variant: str
    files: tuple[str, ...]
    tensors: Mapping[str, Place]

    @property
    def label(self) -> str:
        """How people call it."""
        if self.component == UNCONVERTED:
            return f"{len(self.tensors)} tensors of {', '.join(self.files)} that have no diffusers name"
        shown = self.component or ", ".join(self.files)
        return f"{shown} ({self.variant})" if self.variant else shown


def weight_sets(checkpoint: Checkpoint, by_component: bool) -> list[WeightSet]:
    """The weight sets of a checkpoint.

    Args:
        checkpoint: surveyed, pickles opened.
        by_component: split single files into components, for comparison with a folder.
    """
    sets: list[WeightSet] = []
    grouped: dict[tuple[str, str, str, bool], list[str]] = {}
    places: dict[str, dict[str, Place]] = {}
    for file in checkpoint.files:
        if file.weights is None:
            continue
        places[file.path] = {
            name: (file.weights, tensor) for name, tensor in file.weights.header.tensors.items()
        }
        parsed = parse_weights_name(file.name)
        if checkpoint.kind == SINGLE or parsed is None:
            sets.extend(_sets_of_file(file.path, places[file.path], by_component))
        else:
            key = (file.component, *parsed.copy, bool(parsed.shard))
            grouped.setdefault(key, []).append(file.path)
    for (component, stem, variant, sharded), paths in sorted(grouped.items()):
        named = text_name if by_component and component.startswith("text_encoder") else str
        tensors = _under_their_names([(path, places[path]) for path in paths], named)
        if by_component and not component and component in checkpoint.denoisers:
            component = DENOISER  # a folder that is the denoiser itself
        doubled = sharded and (component, stem, variant, False) in grouped
        others = {each[1] for each in grouped if each[0] == component}
        shown = ", ".join(
            filter(None, (stem if len(others) > 1 else "", variant, "shards" if doubled else ""))
        )
        sets.append(WeightSet(component, shown, tuple(paths), tensors))
    return sets


def _under_their_names(
    files: list[tuple[str, dict[str, Place]]], named: Callable[[str], str]
) -> dict[str, Place]:
    """All tensors of some files under their diffusers names; of two with one name, none is lost."""
    tensors: dict[str, Place] = {}
    for path, places in files:
        for key, place in places.items():
            name = named(key)
            if name in tensors:
                name = key if key not in tensors else f"{key} (of {path})"
            tensors[name] = place
    return tensors


def _sets_of_file(path: str, places: dict[str, Place], by_component: bool) -> list[WeightSet]:
    if not by_component:
        return [WeightSet("", "", (path,), places)]
    sets = []
    for (component, variant), names in split_single_file(places).items():
        tensors = {name: places[key] for name, key in names.items()}
        sets.append(WeightSet(component, variant, (path,), tensors))
    return sets


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two checkpoints, and what of one is compared with what of the other.

    Attributes:
        one, other: the checkpoints A and B.
        pairs: weight sets of A and B that are the same copy of the same component.
        only_a, only_b: weight sets without a counterpart.
        layouts_differ: whether a folder is compared with a single file.
        by_component: whether single files were split into components, under diffusers names.
    """

    one: Checkpoint
    other: Checkpoint
    pairs: tuple[tuple[WeightSet, WeightSet], ...]
    only_a: tuple[WeightSet, ...]
    only_b: tuple[WeightSet, ...]
    layouts_differ: bool
    by_component: bool


def pair_checkpoints(one: Checkpoint, other: Checkpoint) -> Pairing:
    """Pair the weight sets of two checkpoints; pickles opened."""
    layouts_differ = (one.kind == SINGLE) != (other.kind == SINGLE)
    by_component = layouts_differ or _namings_differ(one, other)
    pairs, only_a, only_b = pair_sets(weight_sets(one, by_component), weight_sets(other, by_component))
    return Pairing(one, other, tuple(pairs), tuple(only_a), tuple(only_b), layouts_differ, by_component)


def _namings_differ(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether one single file uses diffusers names and the other does not."""
    if one.kind != SINGLE or other.kind != SINGLE:
        return False
    uses = [{copy.naming == DIFFUSERS for copy in checkpoint.copies} for checkpoint in (one, other)]
    return all(uses) and uses[0] != uses[1]


def pair_sets(
    first: list[WeightSet], second: list[WeightSet]
) -> tuple[list[tuple[WeightSet, WeightSet]], list[WeightSet], list[WeightSet]]:
    """Pair the sets of two checkpoints: by component and variant, then what remains alone in its component.

    Returns:
        the pairs, and the sets that only the first and only the second checkpoint has.
    """
    pairs = []
    rest_a, rest_b = list(first), list(second)
    for one in first:
        other = next((each for each in rest_b if _key(each) == _key(one)), None)
        if other is not None:
            pairs.append((one, other))
            rest_a.remove(one)
            rest_b.remove(other)
    for one in list(rest_a):  # an fp16 twin against the float32 original, a renamed single file
        alike_a = [each for each in rest_a if each.component == one.component]
        alike_b = [each for each in rest_b if each.component == one.component]
        if len(alike_a) == 1 and len(alike_b) == 1:
            pairs.append((one, alike_b[0]))
            rest_a.remove(one)
            rest_b.remove(alike_b[0])
    return pairs, rest_a, rest_b


def _key(weights: WeightSet) -> tuple[str, str, tuple[str, ...]]:
    return weights.component, weights.variant, () if weights.component else weights.files
