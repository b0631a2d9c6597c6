"""One phase of training: AdamW, a cosine with warm-up, a moving average, and a state file to resume from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm


class Average:
    """A moving average of a module's parameters over about the last ninth of the steps, 500 at most.

    It is what is sampled from, and shipped. A fixed decay would let the first, useless weights into it.
    """

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        self.decay = decay
        self.parameters = [parameter.detach().clone() for parameter in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.parameters, list(module.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for parameter, average in zip(module.parameters(), self.parameters, strict=True):
            parameter.copy_(average)


def train_phase(
    name: str,
    trained: dict[str, nn.Module],
    loss_at: Callable[[int], torch.Tensor],
    steps: int,
    folder: Path,
    peak_rate: float,
    save_every: int,
    quiet: bool,
    after_step: Callable[[], None] = lambda: None,
) -> list[float]:
    """Run one phase with AdamW, warm-up and a cosine; save its state as it goes and resume from it.

    At the end the modules hold their moving averages. Returns the loss of every step made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / f"{name}.pt"
    module = nn.ModuleDict(trained)
    optimizer = torch.optim.AdamW(module.parameters(), lr=peak_rate, betas=(0.9, 0.99), fused=True)
    average, losses = Average(module), []
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        average.parameters = state["average"]
        losses = state["losses"]
        if len(losses) < steps:
            optimizer.load_state_dict(state["optimizer"])

    def save() -> None:
        partial = state_file.with_suffix(".partial")
        finished = len(losses) >= steps
        torch.save({"module": module.state_dict(), "average": average.parameters, "losses": losses,
                    "optimizer": {} if finished else optimizer.state_dict()}, partial)  # fmt: skip
        partial.replace(state_file)

    module.train()
    start = len(losses)
    hidden = True if quiet else None  # None: shown on a terminal only
    progress = tqdm(range(start, steps), initial=start, total=steps, desc=name, disable=hidden)
    for step in progress:
        warm_up = min(1.0, (step + 1) / 100)
        rate = peak_rate * warm_up * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_at(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after_step()
        average.update(module, step)
        losses.append(loss.item())
        if step % 20 == 0:
            progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save()
    average.copy_to(module)
    after_step()
    module.eval()
    return losses
