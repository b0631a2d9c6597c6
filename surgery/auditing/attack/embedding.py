"""The embedding attack: is the image still in the weights, whatever the prompt?

After "Finding DoRI" (arXiv 2507.16880): optimise the text EMBEDDING, not the weights, until the model redraws
the training image.

1. Start from an embedding: the prompt's own, Gaussian noise of its mean and spread, or another prompt's.
2. Each step draws fresh noise and timesteps (batch of 8) for the training image's latent, takes the ordinary
   denoising loss (against noise, v or the clean latent, whichever the model predicts), and moves the
   embedding with Adam, learning rate 0.1.
3. After 0, 10, 25, 50, ... steps, pictures are drawn from the embedding at fixed seeds and compared with the
   training image: a curve for each start.

A soft embedding can inject an image that the model never saw; a curve means something only beside the same
attack on control images (see `surgery.auditing.judgement.statistics`). All restarts of one image run side by
side. Noise comes from one CPU generator per restart, so neither device nor batch size changes the course of
the attack beyond rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from surgery.auditing.measures.pictures import from_images
from surgery.auditing.measures.replication import Drawing
from surgery.errors import SurgeryError, UsageError
from surgery.model.denoising import Conditioning, latents_of_seeds
from surgery.model.pipeline import LiveModel

STARTS = ("prompt", "gaussian", "other")
HALF_PRECISION_SCALE = 1024.0  # keeps float16 gradients from vanishing; Adam does not see it


@dataclass(frozen=True)
class Attack:
    """How the attack is made; the defaults are the published settings.

    Attributes:
        curve: after how many steps pictures are drawn, rising; the last is the length of the attack.
        starts: one per restart, each of "prompt", "gaussian", "other"; see `restarts_of`.
        learning_rate, batch: of Adam; noised copies of the training image per step.
        picture_seeds: seeds of the pictures drawn at each point of the curve.
        guidance: of these pictures; 1 draws what the embedding says and nothing else.
        batch_size: the most samples in one UNet call; halved when memory runs out.
    """

    curve: tuple[int, ...] = (0, 10, 25, 50)
    starts: tuple[str, ...] = STARTS
    learning_rate: float = 0.1
    batch: int = 8
    picture_seeds: tuple[int, ...] = (0, 1, 2, 3)
    guidance: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.curve or list(self.curve) != sorted(set(self.curve)) or self.curve[0] < 0:
            raise UsageError(
                "attack curve", f"{list(self.curve)} does not rise from 0 or more", "try 0,10,50"
            )
        if not self.starts or set(self.starts) - set(STARTS):
            raise UsageError("attack starts", f"{list(self.starts)}", f"choose from {', '.join(STARTS)}")
        if self.learning_rate <= 0 or self.batch < 1 or not self.picture_seeds:
            raise UsageError("attack", "learning rate, batch and picture seeds must be positive", "")

    @property
    def steps(self) -> int:
        """The length of the attack."""
        return self.curve[-1]

    def forwards(self, drawing_steps: int) -> int:
        """The sample-forwards of attacking one image: gradient steps, and the pictures of the curve."""
        drawn = Drawing(drawing_steps, self.guidance).forwards(len(self.picture_seeds) * len(self.curve))
        return len(self.starts) * (self.steps * self.batch + drawn)


def restarts_of(count: int) -> tuple[str, ...]:
    """`count` starts: the prompt first, then Gaussian, then another prompt, and round again."""
    return tuple(STARTS[index % len(STARTS)] for index in range(count))


def start_embeddings(
    starts: Sequence[str], own: Conditioning, others: Conditioning, seeds: Sequence[int]
) -> Conditioning:
    """The embeddings that the restarts begin at.

    Args:
        starts: one word per restart.
        own: the conditioning of the prompt itself [1, tokens, width].
        others: of unrelated prompts; each "other" restart takes one of them, chosen by its seed.
        seeds: one per restart.

    Returns:
        The conditioning of len(starts) restarts; added inputs (SDXL) stay those of the prompt they came from.
    """
    spread, center = own.embeddings.float().std(), own.embeddings.float().mean()
    found = None
    for start, seed in zip(starts, seeds, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        if start == "other":
            one = others.select(
                torch.randint(len(others), (1,), generator=generator).to(own.embeddings.device)
            )
        elif start == "gaussian":
            noise = torch.randn(own.embeddings.shape, generator=generator).to(own.embeddings.device)
            one = Conditioning((center + spread * noise).to(own.embeddings.dtype), own.added)
        else:
            one = own
        found = one if found is None else found.join(one)
    assert found is not None
    return found


def optimize_embeddings(
    model: LiveModel,
    clean: torch.Tensor,
    starts: Conditioning,
    settings: Attack,
    seeds: Sequence[int],
) -> Iterator[tuple[int, Conditioning]]:
    """Run the attack on one image from every start at once, stopping at each point of the curve.

    Args:
        clean: the training image's scaled latent [channels, height, width].
        starts: conditioning of n restarts.
        seeds: one per restart, of its noise and timesteps.

    Yields:
        (steps made, the conditioning of the n restarts as it stands), at each point of `settings.curve`.

    Raises:
        SurgeryError: memory runs out for a single sample, or the embedding stops being finite.
    """
    embeddings = starts.embeddings.detach().float().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([embeddings], lr=settings.learning_rate)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    chunk = settings.batch_size
    for step in range(settings.steps + 1):
        if step in settings.curve:
            # a copy: Adam goes on to change the embedding in place
            yield step, Conditioning(embeddings.detach().clone().to(model.dtype), starts.added)
        if step == settings.steps:
            return
        samples = _noised_copies(model, clean, settings.batch, generators)
        while True:
            try:
                optimizer.zero_grad(set_to_none=True)
                with _frozen(model.denoiser):
                    _accumulate_gradient(model, embeddings, starts, samples, chunk)
                break
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise SurgeryError(
                        "memory", "runs out for a single sample", "use another device"
                    ) from None
                chunk //= 2
        if not bool(torch.isfinite(embeddings.grad).all()):  # type: ignore[arg-type]
            raise SurgeryError(model.source, "the attack's gradient is not finite", "try --dtype float32")
        optimizer.step()


@dataclass(frozen=True)
class _Samples:
    """The noised latents of one step, restart after restart: all [restarts * batch, ...], on the CPU."""

    noised: torch.Tensor
    wanted: torch.Tensor
    timesteps: torch.Tensor
    restart: torch.Tensor


def _noised_copies(
    model: LiveModel, clean: torch.Tensor, batch: int, generators: Sequence[torch.Generator]
) -> _Samples:
    config = model.pipeline.scheduler.config
    total = int(config.num_train_timesteps)
    drawn = [
        (torch.randn((batch, *clean.shape), generator=one), torch.randint(total, (batch,), generator=one))
        for one in generators
    ]
    noise = torch.cat([pair[0] for pair in drawn])
    timesteps = torch.cat([pair[1] for pair in drawn])
    alpha = model.pipeline.scheduler.alphas_cumprod.float().cpu()[timesteps].view(-1, 1, 1, 1)
    clean = clean.float().cpu().expand_as(noise)
    wanted = {
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        "sample": clean,
    }[getattr(config, "prediction_type", "epsilon")]
    noised = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    return _Samples(noised, wanted, timesteps, torch.arange(len(generators)).repeat_interleave(batch))


def _accumulate_gradient(
    model: LiveModel,
    embeddings: torch.Tensor,
    starts: Conditioning,
    samples: _Samples,
    chunk: int,
) -> None:
    """Add the gradient of every restart's mean loss to `embeddings.grad`, `chunk` samples at a time."""
    batch = len(samples.restart) // len(embeddings)
    scale = HALF_PRECISION_SCALE if model.computes_in == torch.float16 else 1.0
    device = embeddings.device
    for start in range(0, len(samples.restart), chunk):
        taken = slice(start, start + chunk)
        restart = samples.restart[taken].to(device)
        added = {name: value[restart] for name, value in starts.added.items()}
        with torch.enable_grad():
            predicted = model.denoiser(
                samples.noised[taken].to(device, model.dtype),
                samples.timesteps[taken].to(device),
                encoder_hidden_states=embeddings[restart].to(model.dtype),
                added_cond_kwargs=added or None,
                return_dict=False,
            )[0].float()
            error = (predicted - samples.wanted[taken].to(device)).square()
            loss = error.flatten(1).mean(1).sum() * (scale / batch)
        loss.backward()
    if scale != 1.0 and embeddings.grad is not None:
        embeddings.grad.div_(scale)


@contextmanager
def _frozen(denoiser: Any) -> Iterator[None]:
    """The weights need no gradient while the embedding is optimised: half of the memory and of the work."""
    wanted = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@torch.no_grad()
def draw_from_embeddings(
    model: LiveModel, conditioning: Conditioning, seeds: Sequence[int], drawing: Drawing
) -> torch.Tensor:
    """Draw pictures from embeddings instead of prompts.

    Returns:
        uint8 [embeddings, seeds, 3, height, width].
    """
    repeated = conditioning.repeat(len(seeds))
    latents = latents_of_seeds(model, seeds).repeat(len(conditioning), 1, 1, 1)
    parts = []
    for start in range(0, len(repeated), drawing.batch_size):
        taken = slice(start, start + drawing.batch_size)
        part = repeated.select(taken)
        pooled = {"pooled_prompt_embeds": part.added["text_embeds"]} if "text_embeds" in part.added else {}
        drawn = model.pipeline(
            prompt_embeds=part.embeddings,
            latents=latents[taken].to(model.device, model.dtype),
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance,
            **pooled,
        )
        parts.append(from_images(drawn.images))
    pictures = torch.cat(parts)
    return pictures.view(len(conditioning), len(seeds), *pictures.shape[1:])
