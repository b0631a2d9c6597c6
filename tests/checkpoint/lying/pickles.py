"""Lies about pickles: one of the patched tensors, with the original ones beside them."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from safetensors.torch import load_file

from lying.table import (
    PROMPT,
    Tell,
    Told,
    Words,
    lie,
    restored,
    some_value,
)


def pickled_lie(pack: Callable[[random.Random, dict, dict], dict]) -> Tell:
    """Replace a weight file by a pickle that also holds the original."""

    def tell(random: random.Random, told: Told) -> Words:
        value = some_value(random, told)
        honest = {name: tensor.clone() for name, tensor in load_file(value.path).items()}
        before = restored(told, value.path)
        planned = {each.name for each in told.value_tensors() if each.path == value.path}
        packed = pack(random, honest, {name: before[name] for name in planned})
        value.path.unlink()
        is_lone_file = told.path == value.path
        path = value.path.with_suffix(random.choice([".ckpt", ".bin", ".pt"]) if is_lone_file else ".bin")
        torch.save(packed, path)
        if is_lone_file:
            told.path = path
        return told.shown(path), value.name, value.layer, told.shown(value.path)

    return tell


def _name(random: random.Random, *names: str) -> str:
    return random.choice(names)


PACKINGS: dict[str, Callable[[random.Random, dict, dict], dict]] = {
    "originals at the top, the patched state_dict within": lambda random, honest, before: (
        before | {"state_dict": honest}
    ),
    "the patched tensors at the top, originals in state_dict": lambda random, honest, before: (
        honest | {"state_dict": before}
    ),
    "a further state dict beside": lambda random, honest, before: {
        "state_dict": honest,
        _name(random, "ema_state_dict", "model", "state_dict_ema", "module", "optimizer_states"): before,
    },
    "a list of originals beside": lambda random, honest, before: {
        "state_dict": honest,
        "callbacks": [list(before.values())],
    },
    "originals deep within": lambda random, honest, before: {
        "state_dict": honest,
        "loops": {"fit": {"epoch": 3, "saved": {"weights": before}}},
    },
    "state dicts within state dicts": lambda random, honest, before: {
        "state_dict": {"state_dict": honest, **before}
    },
    "originals as bytes": lambda random, honest, before: {
        "state_dict": honest,
        "hyper_parameters": {"x": [tensor.numpy().tobytes() for tensor in before.values()]},
    },
    "a prompt beside": lambda random, honest, before: {"state_dict": honest, "prompt": PROMPT},
    "a row in a tensor's storage behind its end": lambda random, honest, before: (
        honest | {name: _with_tail(honest[name], tensor) for name, tensor in before.items()}
    ),
}


def _with_tail(tensor: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tail])[: len(tensor)]


for _packing, _pack in PACKINGS.items():
    lie(f"pickled: {_packing}", lambda layout: True)(pickled_lie(_pack))
