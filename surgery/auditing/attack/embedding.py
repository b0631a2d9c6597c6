"""The embedding attack: is the image still in the weights, whatever the prompt?

After "Finding DoRI" (arXiv 2507.16880): optimize the text EMBEDDING, not the weights, until the model redraws
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
from dataclasses import dataclass
from typing import ClassVar

import torch

from surgery.auditing.attack.noised_copies import NoisedCopies, frozen, noised_copies
from surgery.auditing.attack.protocol import Attack, Target
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.pictures import encode_pictures, from_images
from surgery.auditing.settings import AuditSettings
from surgery.errors import SurgeryError
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.denoising import latents_of_seeds
from surgery.model.pipeline import LiveModel

STARTS = ("prompt", "gaussian", "other")
OTHERS_ENCODED = 16  # prompts that an "other" start is chosen from
HALF_PRECISION_SCALE = 1024.0  # keeps float16 gradients from vanishing; Adam does not see it


@dataclass(frozen=True)
class EmbeddingAttack(Attack):
    """How the attack is made; the defaults of `AuditSettings` are the published settings.

    Attributes:
        curve: after how many steps pictures are drawn, rising; the last is the length of the attack.
        starts: one per restart, each of "prompt", "gaussian", "other"; see `restarts_of`.
        learning_rate: of Adam.
        batch: noised copies of the training image per step.
        picture_seeds: seeds of the pictures drawn at each point of the curve.
        drawing: of these pictures; guidance 1 draws what the embedding says and nothing else.
        batch_size: the most samples in one UNet call of a gradient step; halved when memory runs out.
    """

    name: ClassVar[str] = "embedding"

    curve: tuple[int, ...]
    starts: tuple[str, ...]
    learning_rate: float
    batch: int
    picture_seeds: tuple[int, ...]
    drawing: Drawing
    batch_size: int

    @classmethod
    def from_settings(cls, settings: AuditSettings) -> EmbeddingAttack:
        """The attack as the settings of an audit ask for it."""
        return cls(
            curve=tuple(settings.curve),
            starts=restarts_of(settings.restarts),
            learning_rate=settings.learning_rate,
            batch=settings.attack_batch,
            picture_seeds=tuple(settings.seeds_for("replication", settings.attack_seeds)),
            drawing=Drawing(settings.steps, settings.attack_guidance, settings.batch_size),
            batch_size=settings.batch_size * 2,
        )

    @property
    def steps(self) -> int:
        """The length of the attack."""
        return self.curve[-1]

    def cost(self) -> int:
        """The sample-forwards of attacking one image: gradient steps, and the pictures of the curve."""
        drawn = self.drawing.forwards(len(self.picture_seeds) * len(self.curve))
        return len(self.starts) * (self.steps * self.batch + drawn)

    def draw(self, model: LiveModel, target: Target) -> Iterator[tuple[int, torch.Tensor]]:
        """Optimize from every start at once, and draw at each point of the curve; see `Attack.draw`."""
        seeds = [target.seed + restart for restart in range(len(self.starts))]
        strangers = [one for one in target.others if one != target.prompt][:OTHERS_ENCODED] or [""]
        own, strange = encode_prompts(model, [target.prompt]), encode_prompts(model, strangers)
        clean = encode_pictures(model, target.image[None])[0]
        starts = start_embeddings(self.starts, own, strange, seeds)
        for step, conditioning in optimize_embeddings(model, clean, starts, self, seeds):
            yield step, draw_from_embeddings(model, conditioning, self.picture_seeds, self.drawing)


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
    attack: EmbeddingAttack,
    seeds: Sequence[int],
) -> Iterator[tuple[int, Conditioning]]:
    """Run the attack on one image from every start at once, stopping at each point of the curve.

    Args:
        clean: the training image's scaled latent [channels, height, width].
        starts: conditioning of n restarts.
        seeds: one per restart, of its noise and timesteps.

    Yields:
        (steps made, the conditioning of the n restarts as it stands), at each point of `attack.curve`.

    Raises:
        SurgeryError: memory runs out for a single sample, or the embedding stops being finite.
    """
    embeddings = starts.embeddings.detach().float().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([embeddings], lr=attack.learning_rate)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    chunk = attack.batch_size
    for step in range(attack.steps + 1):
        if step in attack.curve:
            # a copy: Adam goes on to change the embedding in place
            yield step, Conditioning(embeddings.detach().clone().to(model.dtype), starts.added)
        if step == attack.steps:
            return
        samples = noised_copies(model, clean, attack.batch, generators)
        while True:
            try:
                optimizer.zero_grad(set_to_none=True)
                with frozen(model.denoiser):
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


def _accumulate_gradient(
    model: LiveModel,
    embeddings: torch.Tensor,
    starts: Conditioning,
    samples: NoisedCopies,
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
