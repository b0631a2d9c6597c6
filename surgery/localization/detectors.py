"""A second, independent detector of memorized prompts: the text-conditional noise magnitude.

After Wen et al., "Detecting, Explaining, and Mitigating Memorization in Diffusion Models" (ICLR 2024): the
norm of what the prompt adds to the noise prediction, ||eps(x_T, t, y) - eps(x_T, t, "")||, averaged over
seeds, is large for memorized prompts. Here it is taken at the same single timestep as the memorization score,
so that one denoiser pass serves both, and divided by the square root of the number of latent values, so that
it does not grow with the picture.
"""

from __future__ import annotations

import torch

from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor


class Magnitude:
    """The detector for one set of latents; the unconditional prediction is made once.

    Args:
        predictor: runs the denoiser (one call for the empty prompt, counted).
        latents: [seeds, channels, height, width].
    """

    name = "noise-magnitude"
    distribution = "noise_magnitude"
    cutoff = 2.0

    def __init__(self, predictor: NoisePredictor, latents: torch.Tensor) -> None:
        self.unconditional = predictor.predict(latents, encode_prompts(predictor.model, [""]))

    def score(self, prediction: torch.Tensor) -> float:
        """The magnitude of one prompt, from its noise predictions [seeds, channels, height, width]."""
        added = (prediction - self.unconditional).flatten(1)
        return float(added.norm(dim=1).mean() / added.shape[1] ** 0.5)
