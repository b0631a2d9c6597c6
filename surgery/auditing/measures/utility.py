"""What else did the patch change? The noise-prediction change on ordinary prompts, in units of a seed.

For prompt y, seed s and timestep t, let x be the latent that SOURCE itself reaches at t from seed s, along
its own deterministic DDIM path without guidance, and a the scheduler's cumulative alpha at t. With the noise
predictions e = SOURCE(x, t, y) and e' = PATCHED(x, t, y):

    what the patch does      P(y, t) = root mean square over seeds of |e' - e|
    what another seed does   S(y, t) = root mean square over pairs of seeds (s, r) of |u_s - u_r|,
                             where u = e - x / sqrt(1 - a)

    change of a prompt       c(y) = mean over timesteps of P(y, t) / S(y, t)
    ordinary change          mean over prompts of c(y)

0 is no change; 1 is as large a change as drawing with another seed. A prompt with c(y) > 1 counts as changed
beyond what another seed would change.

Why u and not e: predictions at two seeds differ first of all because their inputs do (near the noisy end e
is almost x itself), which would make S huge and any patch look harmless. u takes the input out: it is
-sqrt(a / (1 - a)) times the clean latent that the model predicts, so P and S are distances between predicted
pictures on one scale. At the noisy end u is the noise difference of the NeMo paper. Why SOURCE's own path:
those are the states the sampler meets; no picture collection is needed, and both models are asked at the very
same points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from surgery.errors import UsageError
from surgery.model.change import change_in_seeds, next_latents, path_timesteps
from surgery.model.denoising import Conditioning, NoisePredictor, encode_prompts, latents_of_seeds
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work

TIMESTEPS = 8  # positions along the path: forwards = 2 models x 8 x prompts x seeds


@dataclass(frozen=True)
class OrdinaryChange:
    """The change of every ordinary prompt and of all; see the module for the definition.

    Attributes:
        by_prompt: c(y) in the order of the prompts.
        timesteps: where it was measured, from noisy to clean.
        by_timestep: mean over prompts of P / S at each timestep.
    """

    by_prompt: tuple[float, ...]
    timesteps: tuple[int, ...]
    by_timestep: tuple[float, ...]

    @property
    def total(self) -> float:
        """The mean over prompts."""
        return sum(self.by_prompt) / len(self.by_prompt)


def ordinary_change(
    source: LiveModel,
    patched: LiveModel,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2, 3),
    timesteps: int = TIMESTEPS,
    batch_size: int = 32,
    work: Work | None = None,
    quiet: bool = False,
) -> OrdinaryChange:
    """Measure how much PATCHED departs from SOURCE on ordinary prompts, in units of what another seed does.

    Args:
        source, patched: two models of one architecture (one text encoder, one scheduler).
        prompts: captions that call no memory.
        seeds: at least two; the latents of both models.
        timesteps: positions along SOURCE's path. Cost: 2 x timesteps x prompts x seeds sample-forwards.
        work: where sample-forwards are counted, if wanted.

    Raises:
        UsageError: fewer than two seeds, no prompts, or models whose latents differ in shape.
    """
    if len(set(seeds)) < 2:
        raise UsageError("seeds", f"{len(set(seeds))} is too few", "what a seed changes takes at least two")
    if source.latent_shape != patched.latent_shape:
        raise UsageError(
            patched.source, "its latents differ in shape from the source's", "audit a patched copy of SOURCE"
        )
    work = work if work is not None else Work()
    predictors = [NoisePredictor(model, batch_size=batch_size, work=work) for model in (source, patched)]
    positions = path_timesteps(source, timesteps)
    ratios = []
    for prompt in tqdm(prompts, desc="ordinary", unit="prompt", disable=quiet or None):
        conditioning = [encode_prompts(model, [prompt]) for model in (source, patched)]
        ratios.append(
            _ratios_along_path(predictors, conditioning, latents_of_seeds(source, seeds), positions)
        )
    table = torch.stack(ratios)  # [prompts, timesteps]
    return OrdinaryChange(tuple(table.mean(1).tolist()), tuple(positions), tuple(table.mean(0).tolist()))


def _ratios_along_path(
    predictors: Sequence[NoisePredictor],
    conditioning: Sequence[Conditioning],
    latents: torch.Tensor,
    positions: Sequence[int],
) -> torch.Tensor:
    """P / S of one prompt at every position: float64 [timesteps]; latents are [seeds, channels, h, w]."""
    alphas = predictors[0].model.pipeline.scheduler.alphas_cumprod.double()
    latents = latents.double()
    ratios = []
    for index, timestep in enumerate(positions):
        noises = []
        for predictor, told in zip(predictors, conditioning, strict=True):
            predictor.timestep = torch.tensor(timestep)
            noises.append(predictor.predict(latents.float(), told).double().cpu())
        alpha = alphas[timestep]
        ratios.append(change_in_seeds(noises[0], noises[1], latents, alpha))
        if index + 1 < len(positions):
            latents = next_latents(noises[0], latents, alpha, alphas[positions[index + 1]])
    return torch.stack(ratios)
