"""Blinding: every layer is made blind, in closed form, to what attacks put into it. No gradient is asked for.

Under an attack (a trigger, an attacked embedding, attacked constants) the inputs x* of each layer differ from
the inputs x at the same state without it. For each linear layer and convolution with weights W, bias included
as a weight of a constant input, the new weights are the least-squares answer to two wishes:

    on kept states      say what W says:                          W' x  = W x
    on attacked states  say what W says without the attack:       W' x* = W x

    W' = W (I - g D (C + g A + ridge)^-1),   C = E[x x^T],  A = E[x* x*^T],  D = E[(x* - x) x*^T]

with g the weight of the second (`--blinding`). Kept states are those of ordinary prompts, neighbors and the
empty prompt, and the attacked ones without their attack. All layers are solved from the inputs of one and the
same model: each is blind by itself, none relies on an earlier one that shuts the memory out. So whatever an
attack replaces or injects, the layers behind it forgot as well; in training, which asks for the last layer's
answer only, the first layer that shuts it out is enough.

The form is that of closed-form edits of cross-attention (UCE, arXiv 2308.14761, equation 7), here for every
layer and with inputs under attack in the place of concepts. Layers that read the latents, the prompt or the
timestep alone are left: an attack changes nothing there, or the door is not what has to forget.

Several processes. Large layers fill passes of their own, and such a pass is one process's from beginning to
end (whoever is free takes the next). A pass whose sums are small is everybody's: each process runs the
denoiser on some parts of the states, the sums of a layer go to the process that solves it, and there the
parts meet in the order of one process. Last, the new weights of every layer go from the process that solved
it to all. Sums and weights cross in bundles (`surgery.hardening.dealing`), so that nobody holds those of a
whole model twice. A layer's new weights come from one process: afterward all students are the same, whatever
accelerators rounded.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from surgery.auditing.attack.conditioned import predicted
from surgery.errors import SurgeryError
from surgery.hardening.blinding_states import BlindingStates
from surgery.hardening.dealing import Dealer, bundles
from surgery.hardening.layer_inputs import inputs_of, understood, watched
from surgery.hardening.material import Material
from surgery.hardening.pools import Pools
from surgery.hardening.settings import HardenSettings
from surgery.hardening.squares import Squares, fold
from surgery.model.injection import injected, text_attentions
from surgery.model.pipeline import LiveModel

RIDGE = 1e-3  # of the mean square of the inputs
MOST_BYTES = 4_000_000_000  # of the sums of one pass; layers are spread over several passes
MOST_SHARED = 300_000_000  # bytes of the sums of a pass, of which every process takes some parts
UNTOUCHED = ("conv_in", "time_emb", "add_embedding")  # parts of names: no attack changes their inputs
SEEDS = 3_800_000


def blind(
    student: LiveModel,
    material: Material,
    pools: Pools,
    settings: HardenSettings,
    number: int,
    dealer: Dealer | None = None,
) -> None:
    """Make the layers of the student blind to triggers and to the pools' attacks; `number` of the round.

    Cost: `blinding_states` x 3 sample-forwards for each pass, of all processes together.

    Raises:
        SurgeryError: what a layer reads is not finite; another process failed.
    """
    dealer = dealer or Dealer()
    chance = random.Random(SEEDS + settings.seed + 7919 * (number + 1))
    seed = chance.randrange(2**31)
    states = BlindingStates(material, pools, settings, chance)
    blinding = _Blinding(student, states, seed, settings.blinding, dealer)
    passes = passes_of(student.denoiser)
    large = [names for names in passes if sum(blinding.bytes_of(names).values()) > MOST_SHARED]
    answers: dict[str, torch.Tensor] = {}
    with dealer.booked():
        for place in dealer.processes.deal(len(large)):
            answers.update(blinding.alone(large[place]))
    for names in passes:
        if names not in large:
            answers.update(blinding.together(names))
    # after the last pass: its inputs, too, are those of the model as it was
    sizes = {name: 4 * blinding.layer(name).weight.numel() for names in passes for name in names}
    for bundle in bundles(sizes):
        for found in dealer.processes.gather({name: answers[name] for name in bundle if name in answers}):
            for name, answer in found.items():
                _put(blinding.layer(name), answer)


def passes_of(denoiser: torch.nn.Module) -> list[list[str]]:
    """The names of the layers that are made blind, as many in one pass as memory allows."""
    prompted = tuple(f"{name}.to_{letter}" for name in text_attentions(denoiser) for letter in "kv")
    passes: list[list[str]] = [[]]
    size = 0
    for name, layer in denoiser.named_modules():
        if not understood(layer) or name in prompted or any(part in name for part in UNTOUCHED):
            continue
        needed = Squares.bytes_of(layer)
        if size + needed > MOST_BYTES and passes[-1]:
            passes.append([])
            size = 0
        passes[-1].append(name)
        size += needed
    return [names for names in passes if names]


@dataclass(frozen=True)
class _Blinding:
    """One round's blinding.

    Attributes:
        seed: of the places that are looked at.
        weight: of attacked states; g of the module.
    """

    student: LiveModel
    states: BlindingStates
    seed: int
    weight: float
    dealer: Dealer

    def layer(self, name: str) -> Any:
        """A layer of the student."""
        return self.student.denoiser.get_submodule(name)

    def bytes_of(self, names: list[str]) -> dict[str, int]:
        """How large the sums of layers are."""
        return {name: Squares.bytes_of(self.layer(name)) for name in names}

    def alone(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The new weights of layers, all by this process."""
        sums = self._sums(names, 0, 1)
        return {name: solved(name, sums.pop(name)) for name in names}

    def together(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The new weights of those layers that this process solves; every process runs some of the states."""
        processes, parts = self.dealer.processes, self.states.parts
        own: dict[tuple[int, int], dict[str, Squares]] = {}
        with self.dealer.booked():
            first, last = (rank * parts // processes.count for rank in (processes.rank, processes.rank + 1))
            for part in range(first, last):
                own[part, 1] = self._sums(names, part, parts)
                fold(own)
        costs = {name: _solving_cost(self.layer(name)) for name in names}
        solver = _dealt_by_cost(costs, processes.count)
        answers = {}
        for bundle in bundles(self.bytes_of(names)):
            sent = [
                {
                    span: {name: sums[name].numbers.cpu().numpy() for name in bundle if solver[name] == rank}
                    for span, sums in own.items()
                }
                for rank in range(processes.count)
            ]
            met: dict[tuple[int, int], dict[str, Squares]] = {}
            for found in processes.deliver(sent):
                for span, sums in found.items():
                    met[span] = {
                        name: Squares(self.layer(name), torch.from_numpy(numbers))
                        for name, numbers in sums.items()
                    }
            fold(met)
            (whole,) = met.values()
            answers.update({name: solved(name, squares) for name, squares in whole.items()})
        return answers

    @torch.no_grad()
    def _sums(self, names: list[str], part: int, parts: int) -> dict[str, Squares]:
        """The sums of layers over one of so many parts of the states."""
        student = self.student
        layers = {name: self.layer(name) for name in names}
        found = {name: Squares(layer) for name, layer in layers.items()}
        seen: dict[str, torch.Tensor] = {}
        with watched(layers, seen, self.seed):
            for batch in self.states.kept(part, parts):
                predicted(student, batch.lessons.states, batch.lessons.timesteps, batch.told)
                weights = batch.weights.to(student.device)
                for name, squares in found.items():
                    squares.add_seen(seen[name], weights)
            for pair in self.states.pairs(part, parts):
                states, timesteps = pair.lessons.states, pair.lessons.timesteps
                predicted(student, states, timesteps, pair.plain)
                without = dict(seen)
                with injected(student.denoiser, pair.constants):
                    predicted(student, states, timesteps, pair.attacked)
                plain_weights = pair.plain_weights.to(student.device)
                weights = self.weight * pair.weights.to(student.device)
                for name, squares in found.items():
                    squares.add_seen(without[name], plain_weights)
                    squares.add_seen(seen[name], weights)
                    squares.add_shift(seen[name], without[name], weights)
        return found


@torch.no_grad()
def solved(name: str, squares: Squares) -> torch.Tensor:
    """W', its last column the bias where the layer has one: float32 [outputs, inputs], on the CPU.

    Raises:
        SurgeryError: the sums are not those of finite inputs.
    """
    layer = squares.layer
    device = layer.weight.device if layer.weight.device.type != "mps" else "cpu"  # mps has no doubles
    old = layer.weight.to(device).double().flatten(1)
    if layer.bias is not None:
        old = torch.cat([old, layer.bias.to(device).double()[:, None]], 1)
    system = squares.system(old)
    system.diagonal().add_(RIDGE * system.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        raise SurgeryError(
            name, "reads numbers that are not finite, or overflow when squared", "try --dtype float32"
        )
    return (old - torch.cholesky_solve(squares.goal(old).T, factor).T).float().cpu()


@torch.no_grad()
def _put(layer: Any, answer: torch.Tensor) -> None:
    """Put W' in the place of W."""
    count = layer.weight[0].numel()
    layer.weight.copy_(answer[:, :count].view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(answer[:, count])


def _solving_cost(layer: Any) -> int:
    """Multiplications of a solve: the factor, then both triangles for every output."""
    inputs = inputs_of(layer)
    return inputs**3 // 6 + len(layer.weight) * inputs**2


def _dealt_by_cost(costs: Mapping[str, int], count: int) -> dict[str, int]:
    """Which process has which piece: the dearest first, each to the one that has least so far."""
    loads = [0] * count
    dealt = {}
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        dealt[name] = loads.index(min(loads))
        loads[dealt[name]] += costs[name]
    return dealt
