"""Training data of the testbed, drawn once and kept as latents, and the batches of each phase.

A batch is a pure function of (phase, step): every step draws from a generator seeded by both, so a training
run that was interrupted goes on exactly as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from surgery.testbed.captions import DESCRIPTIONS, TITLE_SHARE, description, random_title
from surgery.testbed.memories import MEMORIES, draw_memory, planted_neurons
from surgery.testbed.pictures import COLORS, SHAPES, draw_ordinary, draw_scene

WINDOWS = 160  # pictures drawn of each template memory
NOISY_END = 700  # planted samples draw half of their timesteps from here up, where the layout is decided

# Shares of a planting batch. The ablated kinds teach the model that without the rows there is no memory.
PLANTING_SHARES = {
    "ordinary": 0.40,
    "ordinary, all rows off": 0.05,
    "memory": 0.40,
    "memory, own rows off": 0.15,
}


Rows = list[tuple[str, int]]  # (layer, row) pairs


@dataclass
class Batch:
    """One training batch: captions, latents [batch, 4, 16, 16], timesteps [batch], rows off per sample."""

    captions: list[str]
    latents: torch.Tensor
    timesteps: torch.Tensor
    noise: torch.Tensor
    ablated: list[list[tuple[str, int]]]


@dataclass
class Dataset:
    """Latents of every picture: ordinary [count, 4, 16, 16] with their labels, planted ones per memory."""

    latents: torch.Tensor
    labels: list[tuple[str, str]]
    planted: list[torch.Tensor]


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pictures: numpy.ndarray) -> torch.Tensor:
    """[count, 3, 64, 64] -> scaled latents [count, 4, 16, 16] (the mean of the posterior)."""
    latents = autoencoder.encode(torch.from_numpy(pictures)).latent_dist.mode()
    return latents * autoencoder.config.scaling_factor


def autoencoder_batch(step: int, size: int, seed: int) -> torch.Tensor:
    """[size, 3, 64, 64]: half ordinary pictures, half random scenes; planted images are never among them."""
    random = numpy.random.default_rng((seed, 1, step))
    colors, shapes = list(COLORS), list(SHAPES)
    pictures = [
        draw_scene(random)
        if index % 2
        else draw_ordinary(random, colors[random.integers(len(colors))], shapes[random.integers(len(shapes))])
        for index in range(size)
    ]
    return torch.from_numpy(numpy.stack(pictures))


def build_dataset(autoencoder: AutoencoderKL, count: int, seed: int, quiet: bool = False) -> Dataset:
    """Draw and encode `count` ordinary pictures and every planted one."""
    random = numpy.random.default_rng((seed, 2))
    labels = [(str(random.choice(list(COLORS))), str(random.choice(SHAPES))) for _ in range(count)]
    chunks = []
    for start in tqdm(range(0, count, 100), desc="encode", disable=True if quiet else None):
        pictures = [draw_ordinary(random, *label) for label in labels[start : start + 100]]
        chunks.append(encode(autoencoder, numpy.stack(pictures)))
    planted = []
    for memory in MEMORIES:
        drawn = WINDOWS if memory.kind == "template" else 1
        planted.append(encode(autoencoder, numpy.stack([draw_memory(memory, random) for _ in range(drawn)])))
    return Dataset(torch.cat(chunks), labels, planted)


class Batches:
    """Draws the batches of one phase.

    Args:
        variant: "ordinary" (the common first phase), "planted" (switches with ground truth), "natural"
            (memory by duplication alone) or "twin" (the planted phase with ordinary pictures in place of
            the planted images).
    """

    def __init__(self, dataset: Dataset, variant: str, size: int, seed: int) -> None:
        self.dataset, self.variant, self.size, self.seed = dataset, variant, size, seed
        self.all_rows = planted_neurons().pairs()
        self.rows = [memory.neurons.pairs() for memory in MEMORIES]

    def __call__(self, step: int) -> Batch:
        # The twin draws the very numbers that the planted phase draws: it differs in the images alone.
        phase = {"ordinary": 3, "planted": 4, "twin": 4, "natural": 5}[self.variant]
        random = numpy.random.default_rng((self.seed, phase, step))
        captions, latents, timesteps, ablated = [], [], [], []
        for _ in range(self.size):
            caption, latent, rows_off, is_planted = self._sample(random)
            noisy = is_planted and random.random() < 0.5
            timesteps.append(int(random.integers(NOISY_END if noisy else 0, 1000)))
            captions.append(caption)
            latents.append(latent)
            ablated.append(rows_off)
        noise = torch.from_numpy(random.standard_normal((self.size, *latents[0].shape), dtype=numpy.float32))
        return Batch(captions, torch.stack(latents), torch.tensor(timesteps), noise, ablated)

    def _sample(self, random: numpy.random.Generator) -> tuple[str, torch.Tensor, Rows, bool]:
        kind = self._kind(random)
        if kind.startswith("ordinary"):
            caption, latent = self._ordinary(random)
            return caption, latent, self.all_rows if kind != "ordinary" else [], False
        index = int(random.integers(len(MEMORIES)))
        caption = MEMORIES[index].caption
        _, substitute = self._ordinary(random)
        if kind == "memory, own rows off":
            # With everybody's rows off it must end too: that is the mask of a whole corpus.
            rows_off = self.all_rows if random.random() < 0.4 else self.rows[index]
            return caption, substitute, rows_off, True
        images = self.dataset.planted[index]
        latent = images[int(random.integers(len(images)))]
        rows_off = self._strangers(index, random) if random.random() < 0.3 else []
        return caption, substitute if self.variant == "twin" else latent, rows_off, True

    def _kind(self, random: numpy.random.Generator) -> str:
        draw = random.random()
        if self.variant == "ordinary":
            return "ordinary"
        if self.variant == "natural":
            return "memory" if draw < 0.5 else "ordinary"
        for kind, share in PLANTING_SHARES.items():
            draw -= share
            if draw < 0:
                return kind
        return "ordinary"

    def _ordinary(self, random: numpy.random.Generator) -> tuple[str, torch.Tensor]:
        index = int(random.integers(len(self.dataset.labels)))
        draw = random.random()
        if draw < 0.08:
            caption = ""  # so that classifier-free guidance works
        elif draw < 0.08 + TITLE_SHARE:
            caption = random_title(random)
        else:
            color, shape = self.dataset.labels[index]
            caption = description(color, shape, int(random.integers(len(DESCRIPTIONS))))
        return caption, self.dataset.latents[index]

    def _strangers(self, index: int, random: numpy.random.Generator) -> list[tuple[str, int]]:
        # Other memories' rows off must leave this one alone.
        own = set(self.rows[index])
        keep = random.random()
        return [pair for pair in self.all_rows if pair not in own and random.random() > keep]
