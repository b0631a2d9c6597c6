"""The ladder: the least edit first, and one rung up only where the gate does not hold.

- `zeroed`: the neurons' rows are zeroed, nothing is trained. Usually the memories are only hidden.
- `closed`: cross-attention alone is trained, against the embedding attack. It closes the prompt's
  neighborhood; the images stay in the rest of the weights (`docs/harden.md`). For whoever wants only that,
  and never to be called removal.
- `hardened`: the whole denoiser, against attacks on embeddings and on the outputs of cross-attention. A round
  repairs what the last one changed elsewhere, attacks, and makes every layer blind to what the attacks put
  into it (`surgery.hardening.blinding`). The first rounds know the triggers and need no attack. A round ends
  blind, not repaired: repairing lets a little back in, which the next attacks find. Where the gate finds no
  image but too large a change, the next round repairs, and that alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from surgery.auditing.budget import counted
from surgery.auditing.canaries import own_copy
from surgery.hardening.attacked_paths import attacked_paths, taught
from surgery.hardening.blinding import blind
from surgery.hardening.dealing import Dealer
from surgery.hardening.gate import GateResult, ask_gate
from surgery.hardening.material import Material, zero_rows
from surgery.hardening.pools import Pools, attack_all, joined
from surgery.hardening.recall import recalled
from surgery.hardening.settings import HardenSettings
from surgery.hardening.sharing import Sharing
from surgery.hardening.state import State
from surgery.hardening.training import Trainer
from surgery.measures.similarity import Similarity
from surgery.model.injection import text_attentions
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work
from surgery.neurons import NeuronSet
from surgery.progress import bar

ZEROED, CLOSED, HARDENED = "zeroed", "closed", "hardened"
PATH_SEEDS = 3_700_000


@dataclass
class Bench:
    """What every rung needs."""

    source: LiveModel
    material: Material
    neurons: NeuronSet
    similarity: Similarity
    settings: HardenSettings
    state: State
    dealer: Dealer
    quiet: bool = True

    @property
    def work(self) -> Work:
        """What was spent, by all processes."""
        return self.dealer.work


@dataclass(frozen=True)
class Rung:
    """One rung that was climbed.

    Attributes:
        rounds: of each round: the terms' means, what the gate said (None where it was not asked), seconds and
            sample-forwards of each stage.
        gate: what it said last.
        tensors: the trained parameters, float32 on the CPU; empty for `zeroed`.
    """

    name: str
    rounds: list[dict[str, Any]]
    gate: GateResult
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def climb(bench: Bench) -> list[Rung]:
    """Every rung that the settings name, until the gate holds; the last one is where it ended."""
    rungs: list[Rung] = []
    for name in bench.settings.rungs:
        rungs.append(_zeroed(bench) if name == ZEROED else _trained(bench, name))
        if rungs[-1].gate.holds:
            break
    return rungs


def trained_names(denoiser: Any, rung: str) -> list[str]:
    """The parameters that a rung changes: those of text cross-attention, or all."""
    names = [name for name, _ in denoiser.named_parameters()]
    if rung != CLOSED:
        return names
    attentions = tuple(f"{name}." for name in text_attentions(denoiser))
    return [name for name in names if name.startswith(attentions)]


def free_rounds(settings: HardenSettings, by_output: bool) -> int:
    """How many first rounds need no attack, for they train against triggers."""
    return settings.trigger_rounds if by_output and settings.trigger_share > 0 else 0


def attack(student: LiveModel, bench: Bench, settings: HardenSettings, pools: Pools, number: int) -> None:
    """Attack every memory on the student, measure what it recalls, and draw paths on which it does."""
    material, memories, together = bench.material, len(bench.material.memories), settings.batch_size
    attack_all(student, material, pools, settings, number, bench.dealer)
    told = joined([pool[-1] for pool in pools.embeddings])
    seeds = [PATH_SEEDS + settings.seed + 1_000 * number + place for place in range(memories)]
    (paths, _), pools.recalls = bench.dealer.made_of(
        attacked_paths(student, told, material.empty, seeds, together),
        recalled(student, material, pools, together),
    )
    with counted(bench.source, bench.work):
        (pools.paths,) = bench.dealer.made_of(
            taught(bench.source, bench.neurons, paths, material.safe, together)
        )


def _zeroed(bench: Bench) -> Rung:
    processes = bench.dealer.processes
    known = processes.from_main(bench.state.finished_record(ZEROED) if processes.is_main else None)
    if known is not None:
        return Rung(ZEROED, [], GateResult(**known))
    student = own_copy(bench.source)
    zero_rows(student, bench.neurons)
    with counted(student, bench.work):
        gate = _ask(bench, student, 0)
    if processes.is_main:
        bench.state.finished(ZEROED, gate.__dict__)
    return Rung(ZEROED, [], gate)


def _trained(bench: Bench, name: str) -> Rung:
    """Rounds of attack and training; the gate is asked once there is a chance that it holds."""
    settings = bench.settings
    student = own_copy(bench.source)
    zero_rows(student, bench.neurons)
    if settings.checkpointing:
        student.denoiser.enable_gradient_checkpointing()
        student.denoiser.train()  # diffusers checkpoints in training mode alone
    own = replace(
        settings,
        output_steps=settings.output_steps if name == HARDENED else 0,
        blinding=settings.blinding if settings.blinds(name) else 0.0,
        steps=settings.steps_of(name),
    )
    trainer = Trainer(
        student,
        bench.material,
        bench.neurons,
        own,
        trained_names(student.denoiser, name),
        by_output=name == HARDENED,
        sharing=Sharing(bench.dealer),
    )
    pools = Pools.of(len(bench.material.memories))
    rounds: list[dict[str, Any]] = []
    gate: GateResult | None = None
    if (found := bench.state.load(name)) is not None:
        rounds, content, pools = found
        pools = pools.to(student.device)
        _restore(trainer, content)
        last = rounds[-1]["gate"]
        gate = GateResult(**last) if last is not None else None
    with (
        counted(student, bench.work),
        bar(settings.rounds, f"harden: {name}", not bench.quiet, "round") as bars,
    ):
        bars.update(len(rounds))
        while len(rounds) < settings.rounds and not (gate is not None and gate.holds):
            number = len(rounds)
            gate = _round(bench, trainer, own, pools, rounds, number)
            if bench.dealer.processes.is_main:
                bench.state.save(name, rounds, _content(trainer), pools)
            bars.update(1)
    if gate is None:  # the rounds ended before it was first asked
        gate = _ask(bench, student, settings.rounds)
    tensors = {
        one: parameter.detach().float().cpu().clone()
        for one, parameter in student.denoiser.named_parameters()
        if one in set(trainer.trained)
    }
    return Rung(name, rounds, gate, tensors)


def _round(
    bench: Bench,
    trainer: Trainer,
    settings: HardenSettings,
    pools: Pools,
    rounds: list[dict[str, Any]],
    number: int,
) -> GateResult | None:
    stages: dict[str, Any] = {}
    repaired: dict[str, float] = {}
    agree = partial(trainer.sharing.agree, partial(_content, trainer), partial(_restore, trainer))

    def stage(name: str, act: Any) -> Any:
        before, started = bench.work.unet_sample_forwards, time.perf_counter()
        found = act()
        spent = bench.work.unet_sample_forwards - before
        stages[name] = {"sample_forwards": spent, "seconds": round(time.perf_counter() - started, 2)}
        return found

    last = rounds[-1]["gate"] if rounds else None
    gently = last is not None and not last["found"]  # nothing is left to find, but too much else changed
    if number and settings.blinding:  # before the attack, which sees what repairing lets back in
        repaired = stage("repair", lambda: trainer.repair(number))
        agree()
    is_repaired_only = gently and settings.blinding > 0
    if number >= free_rounds(settings, trainer.by_output) and not is_repaired_only:
        stage("attack", lambda: attack(trainer.student, bench, settings, pools, number))
    if settings.blinding and not is_repaired_only:
        stage("blind", lambda: _blind(trainer, pools, settings, number))
    terms = stage("train", lambda: trainer.round(pools, number, gently))
    if settings.steps:
        agree()
    asked = number + 1 >= settings.first_gate
    gate = stage("gate", lambda: _ask(bench, trainer.student, number + 1)) if asked else None
    rounds.append(
        {
            "terms": {name: round(value, 6) for name, value in {**repaired, **terms}.items()},
            "gate": None if gate is None else gate.__dict__,
            "stages": stages,
        }
    )
    return gate


def _blind(trainer: Trainer, pools: Pools, settings: HardenSettings, number: int) -> None:
    blind(trainer.student, trainer.material, pools, settings, number, trainer.sharing.dealer)
    zero_rows(trainer.student, trainer.neurons)


def _ask(bench: Bench, student: LiveModel, number: int) -> GateResult:
    return ask_gate(
        bench.source, student, bench.material, bench.neurons, bench.similarity, bench.settings, bench.dealer,
        number,
    )  # fmt: skip


def _content(trainer: Trainer) -> dict[str, Any]:
    chosen = set(trainer.trained)
    weights = {
        name: parameter.detach().cpu()
        for name, parameter in trainer.student.denoiser.named_parameters()
        if name in chosen
    }
    return {"weights": weights, "optimizer": trainer.optimizer.state_dict()}


@torch.no_grad()
def _restore(trainer: Trainer, content: dict[str, Any]) -> None:
    for name, parameter in trainer.student.denoiser.named_parameters():
        if name in content["weights"]:
            parameter.copy_(content["weights"][name])
    trainer.optimizer.load_state_dict(content["optimizer"])
