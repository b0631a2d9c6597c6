"""Blinding: every layer is made blind, in closed form, to what attacks put into it. No gradient is asked for.

Under an attack (a trigger, an attacked embedding, attacked constants) the inputs x* of each layer differ from
the inputs x at the same state without it. For each linear layer and convolution with weights W, bias included
as a weight of a constant input, the new weights are the least-squares answer to two wishes:

    on kept states      say what W says:                          W' x  = W x
    on attacked states  say what W says without the attack:       W' x* = W x

    W' = W (I - g D (C + g A + ridge)^-1),   C = E[x x^T],  A = E[x* x*^T],  D = E[(x* - x) x*^T]

with g the weight of the second (`--blinding`; less of it in every further round, which has less to do). Kept
states are those of ordinary prompts, neighbors and the empty prompt, and the attacked ones without their
attack. All layers are solved from the inputs of one and the same model: each is blind by itself, none relies
on an earlier one that shuts the memory out. So whatever an attack replaces or injects, the layers behind it
forgot as well; in training, which asks for the last layer's answer only, the first layer that shuts it out is
enough.

The form is that of closed-form edits of cross-attention (UCE, arXiv 2308.14761, equation 7), here for every
layer and with inputs under attack in the place of concepts. Layers that read the latents, the prompt or the
timestep alone are left: an attack changes nothing there, or the door is not what has to forget.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.auditing.attack.output import Constants
from surgery.hardening.lessons import Lessons
from surgery.hardening.material import Material
from surgery.hardening.pools import Pools, joined, trigger_of
from surgery.hardening.settings import HardenSettings
from surgery.model.conditioning import Conditioning
from surgery.model.injection import injected, text_attentions
from surgery.model.pipeline import LiveModel

PLACES = 24  # of each state, at which a layer's inputs are looked at
RIDGE = 1e-3  # of the mean square of the inputs
MOST_INPUTS = 12_000  # layers with more are left: their squares no longer fit into memory
MOST_BYTES = 4_000_000_000  # of the squares of one pass; layers are spread over several passes
PLAIN_SHARE = 0.5  # weight of attacked states without their attack, beside the kept ones
UNTOUCHED = ("conv_in", "time_emb", "add_embedding")  # parts of names: no attack changes their inputs
SEEDS = 3_800_000


@dataclass
class Moments:
    """Second moments of one layer's inputs, [inputs, inputs] each; see the module for the letters."""

    kept: torch.Tensor
    attacked: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, inputs: int, device: torch.device) -> Moments:
        """Nothing seen yet."""
        return cls(*(torch.zeros(inputs, inputs, device=device) for _ in range(3)))


def blind(
    student: LiveModel, material: Material, pools: Pools, settings: HardenSettings, number: int
) -> None:
    """Make the layers of the student blind to triggers and to the pools' attacks; `number` of the round.

    Cost: `blinding_states` x 3 sample-forwards for each pass.
    """
    answers: dict[str, torch.Tensor] = {}
    for names in passes_of(student.denoiser):
        layers = {name: student.denoiser.get_submodule(name) for name in names}
        moments = collected(student, layers, material, pools, settings, number)
        for name, layer in layers.items():
            answers[name] = _solved(layer, moments[name], settings.blinding / (number + 1))
    # after the last pass: its inputs, too, are those of the model as it was
    for name, answer in answers.items():
        _put(student.denoiser.get_submodule(name), answer)


def passes_of(denoiser: torch.nn.Module) -> list[list[str]]:
    """The names of the layers that are made blind, as many in one pass as memory allows."""
    prompted = tuple(f"{name}.to_{letter}" for name in text_attentions(denoiser) for letter in "kv")
    passes: list[list[str]] = [[]]
    size = 0
    for name, layer in denoiser.named_modules():
        if not _understood(layer) or name in prompted or any(part in name for part in UNTOUCHED):
            continue
        needed = 3 * 4 * inputs_of(layer) ** 2
        if size + needed > MOST_BYTES and passes[-1]:
            passes.append([])
            size = 0
        passes[-1].append(name)
        size += needed
    return [names for names in passes if names]


def _understood(layer: Any) -> bool:
    """Whether a layer is linear in patches of its input, and of them not too many numbers."""
    if isinstance(layer, torch.nn.Conv2d):
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and not isinstance(layer.padding, str) and inputs_of(layer) <= MOST_INPUTS
    return isinstance(layer, torch.nn.Linear) and inputs_of(layer) <= MOST_INPUTS


def inputs_of(layer: Any) -> int:
    """How many numbers an output depends on; the bias counts as one."""
    return int(layer.weight[0].numel()) + (layer.bias is not None)


@torch.no_grad()
def collected(
    student: LiveModel,
    layers: dict[str, Any],
    material: Material,
    pools: Pools,
    settings: HardenSettings,
    number: int,
) -> dict[str, Moments]:
    """The moments of the layers named, over kept and attacked states."""
    chance = random.Random(SEEDS + settings.seed + 7919 * (number + 1))
    found = {name: Moments.of(inputs_of(layer), student.device) for name, layer in layers.items()}
    kept_weight = attacked_weight = 0.0
    seen: dict[str, torch.Tensor] = {}
    with _watched(layers, seen, chance):
        for size in _batches(settings):
            chosen = torch.tensor([chance.randrange(len(material.kept)) for _ in range(size)])
            lessons = material.kept.select(chosen)
            told = material.told.select(lessons.prompts.to(material.told.embeddings.device))
            predicted(student, lessons.states, lessons.timesteps, told)
            weights = material.weights[lessons.timesteps].to(student.device)
            for name, moments in found.items():
                moments.kept += _square(seen[name], seen[name], weights)
            kept_weight += float(weights.sum())
        for size in _batches(settings):
            lessons, attacked, constants, plain = _pairs(material, pools, settings, size, chance)
            weights = material.weights[lessons.timesteps].to(student.device)
            predicted(student, lessons.states, lessons.timesteps, plain)
            without = dict(seen)
            with injected(student.denoiser, constants):
                predicted(student, lessons.states, lessons.timesteps, attacked)
            for name, moments in found.items():
                moments.kept += PLAIN_SHARE * _square(without[name], without[name], weights)
                moments.attacked += _square(seen[name], seen[name], weights)
                moments.shift += _square(seen[name] - without[name], seen[name], weights)
            attacked_weight += float(weights.sum())
    for moments in found.values():
        moments.kept /= kept_weight + PLAIN_SHARE * attacked_weight
        moments.attacked /= attacked_weight
        moments.shift /= attacked_weight
    return found


def _batches(settings: HardenSettings) -> Iterator[int]:
    for start in range(0, settings.blinding_states, settings.batch_size):
        yield min(settings.batch_size, settings.blinding_states - start)


def _pairs(
    material: Material, pools: Pools, settings: HardenSettings, count: int, chance: random.Random
) -> tuple[Lessons, Conditioning, Constants, Conditioning]:
    """States, and what is told there under an attack (constants may be the attack) and without."""
    who = chance.choices(range(len(material.memories)), pools.shares(range(len(material.memories))), k=count)
    parts, attacked, constants, plain = [], [], [], []
    for place in who:
        memory = material.memories[place]
        known = chance.choice([material.noised, material.surrogates, pools.paths or material.noised])
        parts.append(known.select(torch.tensor([chance.choice(known.places_of(place))])))
        embeddings = [*pools.embeddings[place], *memory.leaks]
        known_outputs = pools.outputs[place]
        kinds = {
            "trigger": settings.trigger_share > 0,
            "output": bool(known_outputs),
            "embedding": bool(embeddings),
        }
        kind = chance.choice([name for name, there in kinds.items() if there])
        if kind == "embedding":
            attacked.append(chance.choice(embeddings))
            plain.append(material.safe.select(slice(place, place + 1)))
            constants.append({name: torch.zeros_like(value) for name, value in memory.trigger.items()})
        else:
            one = chance.choice(known_outputs) if kind == "output" else trigger_of(memory, material, chance)
            constants.append(one[0])
            attacked.append(one[1])
            plain.append(one[1])
    together = {name: torch.cat([one[name] for one in constants]) for name in constants[0]}
    return Lessons.joined(parts), joined(attacked), together, joined(plain)


@contextmanager
def _watched(layers: dict[str, Any], seen: dict[str, torch.Tensor], chance: random.Random) -> Iterator[None]:
    """Inside, `seen` holds each layer's latest inputs at some places: [samples, places, inputs]."""
    seed = chance.randrange(2**31)
    places: dict[str, torch.Tensor] = {}

    def watch(name: str, layer: Any, arguments: Sequence[torch.Tensor], output: torch.Tensor) -> None:
        given = arguments[0].detach().float()
        convolution = isinstance(layer, torch.nn.Conv2d)
        count = output.shape[-2:].numel() if convolution else given[0].numel() // given.shape[-1]
        if name not in places:  # its own chance, whatever other layers are watched in this pass
            own = torch.Generator("cpu").manual_seed(seed + crc32(name.encode()))
            places[name] = torch.randperm(count, generator=own)[:PLACES]
        if convolution:
            rows = _patches(layer, given, places[name], output.shape[-1])
        else:
            rows = given.reshape(len(given), count, -1)[:, places[name].to(given.device)]
        if layer.bias is not None:
            rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
        seen[name] = rows

    handles = [layer.register_forward_hook(partial(watch, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _patches(layer: Any, given: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """What a convolution reads for some of its outputs, of rows of `width`: [samples, places, inputs]."""
    (high, wide), (down, across), (above, beside) = layer.kernel_size, layer.stride, layer.padding
    padded = torch.nn.functional.pad(given, (beside, beside, above, above))
    found = []
    for place in places.tolist():
        top, left = place // width * down, place % width * across
        found.append(padded[:, :, top : top + high, left : left + wide].flatten(1))
    return torch.stack(found, 1)


def _square(one: torch.Tensor, other: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum over samples, and mean over places, of the outer products of rows."""
    scaled = one * (weights / one.shape[1]).view(-1, 1, 1)
    return scaled.flatten(0, 1).T @ other.flatten(0, 1)


@torch.no_grad()
def _solved(layer: Any, moments: Moments, weight: float) -> torch.Tensor:
    """W', its last column the bias where the layer has one: float32 [outputs, inputs], on the CPU."""
    device = layer.weight.device if layer.weight.device.type != "mps" else "cpu"  # mps has no doubles
    kept, attacked, shift = (one.to(device).double() for one in vars(moments).values())
    system = kept + weight * attacked
    system.diagonal().add_(RIDGE * system.diagonal().mean())
    old = layer.weight.to(device).double().flatten(1)
    if layer.bias is not None:
        old = torch.cat([old, layer.bias.to(device).double()[:, None]], 1)
    return (old - torch.linalg.solve(system, weight * (old @ shift), left=False)).float().cpu()


@torch.no_grad()
def _put(layer: Any, answer: torch.Tensor) -> None:
    """Put W' in the place of W."""
    count = layer.weight[0].numel()
    layer.weight.copy_(answer[:, :count].view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(answer[:, count])
