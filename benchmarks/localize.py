"""Both strategies on one model, prompt by prompt, and the cost of one evaluation at Stable Diffusion's size.

    python benchmarks/localize.py [--model FOLDER] [--prompts FILE] [--criterion NAME ...] [--json FILE]
    python benchmarks/localize.py --natural [--include-unresolved] [--threshold SCORE ...] [--limit N]
    python benchmarks/localize.py --sd-size

The first form (default: the embedded testbed and its planted captions) localizes the corpus with
`--strategy reference` and with `--strategy fast` from one calibration and prints, per prompt, whether the
refined sets agree, UNet sample-forwards, evaluations per (neurons kept + 1) and seconds; then the totals. The
confirmation on fresh seeds is no part of the published loop, so both run without it.

`--natural` takes the testbed's natural variant, whose memories are spread over many neurons, as in a model of
the wild. Unresolved prompts are refined by the reference loop only, unless `--include-unresolved` lets the
fast strategy do so too; without it only their initial sets are compared. Totals are given for all prompts
and for the localized ones. `--threshold` sets the score to reach by hand: each value breaks other prompts at
another step, so that the two strategies can be compared on many more searches than the calibrated one gives.

The last form builds a random-weight UNet and text encoder of SD1.5's size (860 million parameters) and
prints seconds per sample-forward of a bare UNet call, of one evaluation, and of `scan`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from surgery.corpus import as_corpus
from surgery.localization import registry
from surgery.localization.calibration import Calibration, calibrate, predictor_of
from surgery.localization.discovery.sequential import SequentialScorer, SequentialTest
from surgery.localization.localize import localize
from surgery.localization.one_prompt import Thresholds
from surgery.localization.records import PromptRecord
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import seeded_latents
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.neurons import NeuronSet
from surgery.ordinary import ordinary_prompts, packaged_captions

NATURAL = Path(__file__).resolve().parent.parent / "tests" / "data" / "natural.safetensors"
HEADER = (
    f"{'prompt':34} {'outcome':13} steps initial kept same "
    "reference  fast ratio  floor reference   fast  (sample-forwards; evaluations / (kept + 1); seconds)"
)


def compare(
    model: LiveModel, prompts: list[str], settings: LocalizeSettings, calibration: Calibration
) -> dict[str, Any]:
    """Both strategies over the prompts; prints the table and returns the figures."""
    found: dict[str, list[PromptRecord]] = {}
    for strategy in ("reference", "fast"):
        chosen = replace(settings, strategy=strategy)
        found[strategy] = localize(model, prompts, settings=chosen, calibration=calibration).records
    threshold = Thresholds.of(settings, calibration).selection
    captions = f"{calibration.prompts} ordinary captions"
    print(f"\ncriterion {settings.criterion}, threshold {threshold:.4f}, {captions}")
    print(HEADER)
    floors = []
    for slow, fast in zip(found["reference"], found["fast"], strict=True):
        forwards = [record.details["work"]["unet_sample_forwards"] for record in (slow, fast)]
        seconds = [record.details["work"]["seconds"] for record in (slow, fast)]
        outcome = fast.outcome if fast.outcome == slow.outcome else f"{slow.outcome}/{fast.outcome}"
        floor = fast.details["evaluations"] / (fast.refined.count + 1)
        if fast.outcome == "localized":
            floors.append(floor)
        same = "yes" if same_sets(slow, fast) else "NO"
        steps, initial, ratio = slow.details.get("steps", 0), slow.initial.count, forwards[0] / forwards[1]
        print(
            f"{fast.prompt[:34]:34} {outcome:13} {steps:5} {initial:7} {fast.refined.count:4} {same:4} "
            f"{forwards[0]:9} {forwards[1]:5} {ratio:5.1f} "
            f"{floor:6.2f} {seconds[0]:9.2f} {seconds[1]:6.2f}"
        )
    return {"criterion": settings.criterion, "threshold": round(threshold, 4), **totals(found, floors)}


def runs(model: LiveModel, arguments: argparse.Namespace) -> Iterator[tuple[LocalizeSettings, Calibration]]:
    """The settings of each table, with their calibration."""
    captions, source = ordinary_prompts(model.source)
    for criterion in arguments.criterion:
        settings = LocalizeSettings(
            criterion=criterion, confirm_seeds=0, include_unresolved=arguments.include_unresolved
        )
        calibration = calibrate(model, captions, settings, source=source)
        for threshold in arguments.threshold or [None]:
            yield (
                replace(settings, selection_threshold=threshold, refinement_threshold=threshold),
                calibration,
            )


def totals(found: dict[str, list[PromptRecord]], floors: list[float]) -> dict[str, Any]:
    """Sums over the prompts that passed the gate, and over the localized ones, printed and returned."""
    pairs = [
        pair
        for pair in zip(found["reference"], found["fast"], strict=True)
        if pair[1].outcome != "not_memorized"
    ]
    localized = [pair for pair in pairs if pair[1].outcome == "localized"]
    median = statistics.median(floors) if floors else None
    figures: dict[str, Any] = {
        "all": summed(pairs),
        "localized": summed(localized),
        "median_evaluations_per_kept_plus_one": median,
    }
    for name, some in (("all", pairs), ("localized", localized)):
        if some and (name == "all" or len(some) < len(pairs)):
            sums = figures[name]
            print(
                f"{name}: {sums['identical']} of {len(some)} sets identical, {sums['fell_back']} fell back; "
                f"sample-forwards {sums['forwards'][0]} / {sums['forwards'][1]} = "
                f"{sums['forwards'][0] / sums['forwards'][1]:.1f}; "
                f"seconds {sums['seconds'][0]} / {sums['seconds'][1]} = "
                f"{sums['seconds'][0] / sums['seconds'][1]:.1f}"
            )
    print(f"median evaluations per (kept + 1): {median}")
    return figures


def same_sets(slow: PromptRecord, fast: PromptRecord) -> bool:
    """Whether both strategies found the same; initial sets are what counts where one did not refine."""
    if fast.details.get("search") == "not refined":
        return slow.initial == fast.initial and slow.outcome == fast.outcome
    return (slow.initial, slow.refined, slow.outcome) == (fast.initial, fast.refined, fast.outcome)


def summed(pairs: list[tuple[PromptRecord, PromptRecord]]) -> dict[str, Any]:
    """(reference, fast) records -> how many sets agree, and the work of each strategy."""
    work = [[record.details["work"] for record in pair] for pair in pairs]
    return {
        "prompts": len(pairs),
        "identical": sum(same_sets(slow, fast) for slow, fast in pairs),
        "fell_back": sum(bool(fast.details.get("fell_back")) for _, fast in pairs),
        "forwards": [sum(pair[side]["unet_sample_forwards"] for pair in work) for side in (0, 1)],
        "seconds": [round(sum(pair[side]["seconds"] for pair in work), 2) for side in (0, 1)],
    }


def sd_size(prompts: int, seeds: int) -> dict[str, Any]:
    """Cost of an evaluation and of scan beside a bare UNet call, at SD1.5 size with random weights."""
    model = random_sd15()
    settings = LocalizeSettings(seeds=seeds, batch_size=prompts * seeds, confirm_seeds=0)
    captions = packaged_captions()[:prompts]
    latents = seeded_latents(model, 0, seeds)
    predictor = predictor_of(model, settings)
    conditioning = encode_prompts(model, captions).repeat(seeds)
    tiled = latents.repeat(prompts, 1, 1, 1)

    def bare() -> None:
        with torch.no_grad():
            model.denoiser(tiled, predictor.timestep, encoder_hidden_states=conditioning.embeddings)

    scanner = SequentialScorer(
        predictor, registry.detector("seeds-diverge"), latents, SequentialTest.all_seeds(seeds)
    )

    one = LocalizeSettings(seeds=prompts * seeds, batch_size=prompts * seeds, confirm_seeds=0)
    evaluator = PromptEvaluator(
        predictor_of(model, one), conditioning.select(slice(0, 1)), tiled, registry.criterion("seeds-diverge")
    )
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    evaluator.judge(-1.0)
    samples = prompts * seeds
    timed = best_of(
        {
            "bare": bare,
            "scan": lambda: scanner(captions),
            "evaluation": lambda: evaluator.score(NeuronSet({layer: [1]})),
        }
    )
    figures = {name: round(seconds / samples, 3) for name, seconds in timed.items()}
    figures["scan_relative_to_bare"] = round(timed["bare"] / timed["scan"], 3)
    threads = torch.get_num_threads()
    print(
        f"SD1.5 size, {prompts} prompts x {seeds} seeds, {threads} threads; "
        f"seconds a sample-forward:\n{figures}"
    )
    return figures


def best_of(runs: dict[str, Any], rounds: int = 3) -> dict[str, float]:
    """The least seconds of each run, taken in turns: what the machine can do when nothing disturbs it."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(some) for name, some in seconds.items()}


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


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FOLDER", help="default: the embedded testbed")
    parser.add_argument("--natural", action="store_true", help="the testbed's natural variant")
    parser.add_argument("--include-unresolved", action="store_true", help="refine unresolved prompts too")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument("--prompts", metavar="FILE", help="default: the testbed's planted captions")
    parser.add_argument("--criterion", nargs="+", default=list(registry.CRITERIA))
    parser.add_argument("--threshold", type=float, nargs="+", metavar="SCORE", help="default: calibrated")
    parser.add_argument("--device", help="cpu, cuda or mps")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--sd-size", action="store_true", help="time evaluations at the size of Stable Diffusion"
    )
    parser.add_argument("--sd-prompts", type=int, default=2)
    parser.add_argument("--sd-seeds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.sd_size:
        figures: Any = sd_size(arguments.sd_prompts, arguments.sd_seeds)
    else:
        from surgery.testbed.load import PLANTED_FOLDER, assemble_variant, read_ground_truth

        folder = arguments.model or PLANTED_FOLDER
        with tempfile.TemporaryDirectory() as temporary:
            if arguments.natural:
                folder = assemble_variant(NATURAL, Path(temporary) / "natural")
            prompts = as_corpus(
                arguments.prompts or [memory.caption for memory in read_ground_truth(folder)]
            ).prompts[: arguments.limit]
            model = load_pipeline(folder, arguments.device)
            # Inside: the calibration reads the ordinary captions that lie beside the model.
            figures = [
                compare(model, prompts, settings, calibration)
                for settings, calibration in runs(model, arguments)
            ]
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
