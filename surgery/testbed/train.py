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
from pathlib import Path

import torch

from surgery.files import expanded
from surgery.testbed import models
from surgery.testbed.autoencoder import train_autoencoder
from surgery.testbed.export import export
from surgery.testbed.phases import FrozenText, load_dataset, train_ordinary, train_variant
from surgery.testbed.schedule import VARIANTS, Schedule


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
