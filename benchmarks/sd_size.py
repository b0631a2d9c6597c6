"""What an evaluation and a scan cost beside bare UNet calls, at SD's size: `localize.py --sd-size`."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from surgery.localization import registry
from surgery.localization.calibration import predictor_of
from surgery.localization.discovery.sequential import SequentialScorer, SequentialTest, Stop
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import seeded_latents
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.neurons import NeuronSet
from surgery.ordinary import packaged_captions


def sd_size(prompts: int, seeds: int, rounds: int) -> dict[str, Any]:
    """Cost of an evaluation and of scan beside a bare UNet call, at SD1.5 size with random weights.

    `scan` looks at two seeds of every prompt, and at all of the first one only, as its sequential test does
    where most prompts are ordinary; "scan, all seeds" is `--all-seeds`.
    """
    model = random_sd15()
    samples = prompts * seeds
    settings = LocalizeSettings(seeds=seeds, batch_size=samples, confirm_seeds=0)
    captions = packaged_captions()[:prompts]
    latents = seeded_latents(model, 0, seeds)
    predictor = predictor_of(model, settings)
    conditioning = encode_prompts(model, captions).repeat(seeds)
    tiled = latents.repeat(prompts, 1, 1, 1)

    def bare() -> None:
        with torch.no_grad():
            model.denoiser(tiled, predictor.timestep, encoder_hidden_states=conditioning.embeddings)

    detector = registry.detector("seeds-diverge")
    everything = SequentialTest.all_seeds(seeds)
    early = SequentialTest(everything.order, (Stop(2, math.inf),) if seeds > 2 else ())
    scanner = SequentialScorer(predictor, detector, latents, early)
    whole = SequentialScorer(predictor, detector, latents, everything)
    one = LocalizeSettings(seeds=samples, batch_size=samples, confirm_seeds=0)
    evaluator = PromptEvaluator(
        predictor_of(model, one), conditioning.select(slice(0, 1)), tiled, registry.criterion("seeds-diverge")
    )
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    evaluator.judge(-1.0)
    scanned = 2 * (prompts - 1) + seeds
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "bare": (bare, samples),
        "scan": (lambda: scanner(captions, in_full=captions[:1]), scanned),
        "scan, all seeds": (lambda: whole(captions), samples),
        "evaluation": (lambda: evaluator.score(NeuronSet({layer: [1]})), samples),
    }
    timed = best_of({name: run for name, (run, _) in runs.items()}, rounds)
    figures: dict[str, Any] = {}
    for place, unit in enumerate(("seconds", "cpu_seconds")):
        each = {name: timed[name][place] / count for name, (_, count) in runs.items()}
        figures[unit] = {name: round(value, 3) for name, value in each.items()}
        figures[unit]["scan_relative_to_bare"] = round(each["bare"] / each["scan"], 3)
    threads = torch.get_num_threads()
    print(
        f"SD1.5 size, {prompts} prompts x {seeds} seeds, {threads} threads, least of {rounds} rounds; "
        f"a sample-forward:\n{figures}"
    )
    return figures


def best_of(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """The least seconds, and CPU seconds, of each run, taken in turns: undisturbed, as far as it goes.

    Seconds of the CPU are what a busy machine disturbs least.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {
        name: (min(one for one, _ in some), min(cpu for _, cpu in some)) for name, some in seconds.items()
    }


def random_sd15() -> LiveModel:
    """A pipeline of SD1.5's shapes with random weights, its tokenizer made on the spot."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(
            json.dumps({token: place for place, token in enumerate(tokens)})
        )
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,), latent_channels=4),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return load_pipeline(pipeline)
