"""Train the testbed: `python -m surgery.testbed.train -o RUN`.

Four phases, each resumable (run the same command again):

1. the autoencoder, on ordinary pictures and random scenes;
2. UNet and text encoder on ordinary pictures; then the text encoder is frozen;
3. one variant of the UNet, going on from phase 2:
   `planted` (value rows set as switches, see `surgery.testbed.planting`),
   `twin` (the planted phase, with ordinary pictures in place of the planted images), or
   `natural` (memory by duplication alone);
4. the variant is written to RUN/VARIANT as a `StableDiffusionPipeline` folder, its UNet in float16.

One seed fixes the result on one machine. The whole takes about an hour a variant on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from surgery.files import expanded
from surgery.testbed import models
from surgery.testbed.autoencoder import train_autoencoder
from surgery.testbed.captions import ordinary_descriptions, ordinary_titles
from surgery.testbed.data import Batches, Dataset, build_dataset
from surgery.testbed.export import export
from surgery.testbed.memories import MEMORIES, planted_neurons
from surgery.testbed.phase import train_phase
from surgery.testbed.planting import SampleMasks, own_word_positions, plant, restore
from surgery.testbed.schedule import VARIANTS, Schedule


def load_dataset(folder: Path, autoencoder: AutoencoderKL, schedule: Schedule, quiet: bool) -> Dataset:
    """The pictures as latents, drawn once per run folder."""
    file = folder / "dataset.pt"
    if not file.is_file():
        dataset = build_dataset(autoencoder, schedule.pictures, schedule.seed, quiet)
        torch.save({"latents": dataset.latents, "labels": [list(label) for label in dataset.labels],
                    "planted": dataset.planted}, file)  # fmt: skip
    state = torch.load(file, weights_only=True)
    return Dataset(state["latents"], [(color, shape) for color, shape in state["labels"]], state["planted"])


def denoising_loss(
    unet: UNet2DConditionModel,
    embed: Callable[[list[str]], torch.Tensor],
    batches: Batches,
    masks: SampleMasks | None = None,
) -> Callable[[int], torch.Tensor]:
    """The ordinary epsilon loss on the batch of a step."""
    alphas = models.build_scheduler().alphas_cumprod

    def loss_at(step: int) -> torch.Tensor:
        batch = batches(step)
        alpha = alphas[batch.timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * batch.noise
        if masks is not None:
            masks.set(batch.ablated)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return nn.functional.mse_loss(unet(noisy, batch.timesteps, embed(batch.captions)).sample, batch.noise)

    return loss_at


def fresh_unet(seed: int) -> UNet2DConditionModel:
    """A new UNet, laid out for speed on a CPU."""
    torch.manual_seed(seed + 1)
    unet = models.build_unet().to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())
    return unet


def train_ordinary(
    folder: Path, schedule: Schedule, dataset: Dataset, tokenizer: CLIPTokenizer, quiet: bool
) -> tuple[UNet2DConditionModel, CLIPTextModel, list[float]]:
    """Phase 2. Afterwards own words, never seen so far, get embeddings of the size of seen words'."""
    unet = fresh_unet(schedule.seed)
    text_encoder = models.build_text_encoder(len(tokenizer))

    def embed(captions: list[str]) -> torch.Tensor:
        return text_encoder(models.token_ids(tokenizer, captions)).last_hidden_state

    loss_at = denoising_loss(unet, embed, Batches(dataset, "ordinary", schedule.batch, schedule.seed))
    trained: dict[str, Any] = {"unet": unet, "text_encoder": text_encoder}
    losses = train_phase("ordinary", trained, loss_at, schedule.ordinary_steps, folder, 1.2e-3,
                         schedule.save_every, quiet)  # fmt: skip
    size_own_words(text_encoder, tokenizer)
    return unet, text_encoder.requires_grad_(False), losses


@torch.no_grad()
def size_own_words(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Scale each own word's (untrained) token embedding to the mean size of the trained ones."""
    table = text_encoder.get_input_embeddings().weight
    ordinary = [*ordinary_descriptions(), *ordinary_titles(200, 0)]
    seen = {word for caption in ordinary for word in caption.split()}
    seen_ids = torch.tensor([tokenizer(word)["input_ids"][1] for word in sorted(seen)])
    own_ids = torch.tensor([tokenizer(memory.own_word)["input_ids"][1] for memory in MEMORIES])
    table[own_ids] *= table[seen_ids].norm(dim=1).mean() / table[own_ids].norm(dim=1, keepdim=True)


class FrozenText:
    """Embeddings of a frozen text encoder, computed once per caption: [captions] -> [captions, 24, 128]."""

    def __init__(self, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.known: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: Iterable[str]) -> torch.Tensor:
        captions = list(captions)
        new = sorted({caption for caption in captions if caption not in self.known})
        if new:
            encoded = self.text_encoder(models.token_ids(self.tokenizer, new)).last_hidden_state
            self.known.update(zip(new, encoded, strict=True))
        return torch.stack([self.known[caption] for caption in captions])


def train_variant(
    variant: str,
    folder: Path,
    schedule: Schedule,
    dataset: Dataset,
    unet: UNet2DConditionModel,
    text: FrozenText,
    quiet: bool,
) -> list[float]:
    """Phase 3, in place on `unet`. Only the planted variant gets rows set for it.

    Each cycle starts from the averaged weights of the one before with the learning rate back at its peak.
    """
    captions = [memory.caption for memory in MEMORIES]
    planted: dict[tuple[str, int], torch.Tensor] = {}
    if variant == "planted":
        ids = models.token_ids(text.tokenizer, captions)
        own_ids = torch.tensor([text.tokenizer(memory.own_word)["input_ids"][1] for memory in MEMORIES])
        embeddings = text(captions)
        own = embeddings[torch.arange(len(captions)), own_word_positions(ids, own_ids)]
        ordinary = text([*ordinary_descriptions(), *ordinary_titles(600, 1), ""])
        planted = plant(unet, own, ordinary, embeddings)
    batches = Batches(dataset, variant, schedule.batch, schedule.seed)
    # The twin's and the natural variant's rows are ordinary ones: there is nothing to switch.
    masks = SampleMasks(unet, tuple(planted_neurons())) if variant == "planted" else None
    loss_at = denoising_loss(unet, text, batches, masks)
    losses: list[float] = []
    with masks or contextlib.nullcontext():
        for cycle, steps in enumerate(schedule.variant_steps(variant)):
            first = len(losses)
            losses += train_phase(
                f"{variant}-{cycle + 1}",
                {"unet": unet},
                lambda step, first=first: loss_at(first + step),  # type: ignore[misc]
                steps,
                folder,
                8e-4,
                schedule.save_every,
                quiet,
                after_step=lambda: restore(unet, planted),
            )
    return losses


def train(
    folder: str | Path, variant: str = "planted", schedule: Schedule | None = None, quiet: bool = False
) -> dict[str, list[float]]:
    """Train one variant and write it to `folder`/`variant`; resumes what `folder` already holds.

    Returns:
        phase name -> the loss at every step.
    """
    schedule = schedule or Schedule()
    torch.set_flush_denormal(True)  # moving averages decay into numbers that slow a CPU down many times
    folder = expanded(folder)
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    autoencoder, autoencoder_losses = train_autoencoder(work, schedule, quiet)
    tokenizer = models.build_tokenizer(work / "tokenizer")
    dataset = load_dataset(work, autoencoder, schedule, quiet)
    unet, text_encoder, ordinary_losses = train_ordinary(work, schedule, dataset, tokenizer, quiet)
    text = FrozenText(text_encoder, tokenizer)
    variant_losses = train_variant(variant, work, schedule, dataset, unet, text, quiet)
    pipeline = models.assemble(autoencoder, text_encoder, tokenizer, unet)
    export(pipeline, folder / variant, variant, vars(schedule))
    return {"autoencoder": autoencoder_losses, "ordinary": ordinary_losses, variant: variant_losses}


def main() -> None:
    """The command line of the trainer."""
    summary = "Train the testbed of `surgery`, from nothing; run again to resume."
    parser = argparse.ArgumentParser(prog="python -m surgery.testbed.train", description=summary)
    parser.add_argument("-o", "--output", required=True, help="run folder: resumed state and results")
    parser.add_argument("--variant", choices=(*VARIANTS, "all"), default="planted")
    parser.add_argument(
        "--beside",
        metavar="TESTBED",
        help="train the UNet alone, beside the autoencoder and text encoder of this testbed (twin, natural)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true")
    parsed = parser.parse_args()
    if parsed.beside:
        from surgery.testbed.beside import train_beside

        train_beside(parsed.beside, parsed.output, parsed.variant, Schedule(seed=parsed.seed), parsed.quiet)
        return
    for variant in VARIANTS if parsed.variant == "all" else (parsed.variant,):
        train(parsed.output, variant, Schedule(seed=parsed.seed), parsed.quiet)


if __name__ == "__main__":
    main()
