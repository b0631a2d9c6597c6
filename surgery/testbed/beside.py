"""Train a variant beside a testbed that exists: same autoencoder, text encoder and tokenizer, a new UNet.

The twin of a published testbed has to differ from it in what the UNet saw, and in nothing else. Training the
whole again would give it another autoencoder too. Here the parts that never saw a planted image (the
autoencoder and the text encoder are trained on ordinary pictures and frozen before the first planted step)
are taken from the testbed, and the UNet is trained from nothing: the ordinary phase, then the variant's own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.testbed import models
from surgery.testbed.data import Batches
from surgery.testbed.export import export
from surgery.testbed.load import read_ground_truth
from surgery.testbed.phase import train_phase
from surgery.testbed.phases import (
    FrozenText,
    denoising_loss,
    fresh_unet,
    load_dataset,
    train_variant,
)
from surgery.testbed.schedule import Schedule


def train_beside(
    testbed: str | Path,
    folder: str | Path,
    variant: str = "twin",
    schedule: Schedule | None = None,
    quiet: bool = False,
) -> dict[str, list[float]]:
    """Train one variant's UNet beside `testbed` and write the pipeline to `folder`/`variant`; resumable.

    Args:
        testbed: a pipeline folder that `surgery.testbed.train` wrote, or the embedded one.
        folder: the run folder: resumed state and results.
        variant: "twin" or "natural"; the planted one is tied to the text encoder it was trained with.

    Returns:
        phase name -> the loss at every step.

    Raises:
        UsageError: `testbed` is no testbed, or the variant is the planted one.
    """
    testbed, folder = expanded(testbed), expanded(folder)
    read_ground_truth(testbed)  # refuses what is no testbed
    if variant == "planted":
        raise UsageError("the planted variant", "is never trained beside another", "train it on its own")
    schedule = schedule or Schedule()
    torch.set_flush_denormal(True)  # as in a whole run: decayed averages slow a CPU down many times
    work = folder / "work-beside"
    work.mkdir(parents=True, exist_ok=True)
    autoencoder = AutoencoderKL.from_pretrained(testbed / "vae").requires_grad_(False)
    text_encoder = CLIPTextModel.from_pretrained(testbed / "text_encoder").eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(testbed / "tokenizer")
    dataset = load_dataset(work, autoencoder, schedule, quiet)
    text = FrozenText(text_encoder, tokenizer)
    unet = fresh_unet(schedule.seed)
    loss_at = denoising_loss(unet, text, Batches(dataset, "ordinary", schedule.batch, schedule.seed))
    ordinary_losses = train_phase("ordinary", {"unet": unet}, loss_at, schedule.ordinary_steps, work, 1.2e-3,
                                  schedule.save_every, quiet)  # fmt: skip
    variant_losses = train_variant(variant, work, schedule, dataset, unet, text, quiet)
    pipeline = models.assemble(autoencoder, text_encoder, tokenizer, unet)
    made_with = {**vars(schedule), "autoencoder_steps": 0, "beside": testbed.resolve().name}
    export(pipeline, folder / variant, variant, made_with)
    return {"ordinary": ordinary_losses, variant: variant_losses}
