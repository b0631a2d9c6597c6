"""Discovery: how few forwards find the memories of a corpus, and how few ordinary prompts end with neurons.

    python benchmarks/discovery.py scan        [--variant planted|natural] [--titles N] [--descriptions N]
    python benchmarks/discovery.py one-in-many [--variant ...] [--captions 10000]
    python benchmarks/discovery.py stops       [--variant ...] [--titles N] [--descriptions N]
    python benchmarks/discovery.py simulate    [--variant ...] [--titles N] [--captions 10000] [--runs 200]
    python benchmarks/discovery.py second-look [--variant ...] [--titles N] [--descriptions N]
    python benchmarks/discovery.py hashes      [--pictures 400] [--hashes 100000]

All ordinary captions are held out: titles that the testbed's list does not hold, and descriptions that the
calibration did not run through the denoiser. `--calibration FILE` keeps the calibration between runs.

- `scan` looks at the held-out and the memorized captions twice, by the sequential test and with all seeds:
  seeds a caption, and which captions above the threshold the test stopped early.
- `stops` asks what other stops and chances of a miss would make of the same captions, from one look at all
  pairs of their seeds.
- `one-in-many` is the real thing: one memorized caption at a random place among ordinary titles; 10,000 of
  them take about 25,000 sample-forwards.
- `simulate` draws corpora of that size from the measured scores of the held-out titles (each with its scores
  over the first seeds), puts one memorized caption into each, and runs the stops on them.
- `second-look` counts the held-out ordinary prompts that pass the gate, those that also pass the second look
  and the correction over the corpus, and the memorized ones that are lost. Nothing is searched.
- `hashes` needs no model: near-duplicates found among changed copies, false pairs among strangers, and the
  time for a large number of hashes.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from PIL import Image

from surgery.localization import registry
from surgery.localization.calibration import Calibration, calibrate, predictor_of
from surgery.localization.calibration_file import read_calibration, write_calibration
from surgery.localization.criteria import Gate
from surgery.localization.discovery.hashes import as_array, distances, picture_hash
from surgery.localization.discovery.looks import STOPS, Line, mean_pairs, telling_order
from surgery.localization.discovery.near_duplicates import near_duplicates
from surgery.localization.discovery.sequential import SequentialScorer, SequentialTest
from surgery.localization.discovery.settings import ScanSettings
from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.predictions import Predictions
from surgery.localization.records import LOCALIZED, NOT_MEMORIZED, PromptRecord
from surgery.localization.scan import scan
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.second_look import SecondLook, corrected
from surgery.localization.settings import SCORE_PROMPTS, LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import seeded_latents
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.testbed.captions import ordinary_descriptions, ordinary_titles
from surgery.testbed.load import (
    PLANTED_FOLDER,
    assemble_variant,
    read_ground_truth,
    read_ordinary_prompts,
)
from surgery.testbed.pictures import COLORS, SHAPES, draw_ordinary, draw_scene

NATURAL = Path(__file__).resolve().parent.parent / "tests" / "data" / "natural.safetensors"
SEED = 991  # of everything that is drawn here
DETECTOR = "seeds-diverge"


def model_of(variant: str) -> LiveModel:
    """A variant of the testbed, live."""
    if variant == "planted":
        return load_pipeline(PLANTED_FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        return load_pipeline(assemble_variant(NATURAL, Path(folder) / variant))


def calibrated(model: LiveModel, settings: LocalizeSettings, file: str | None) -> Calibration:
    """The calibration on the testbed's own ordinary captions; kept in a file, where one is named."""
    if file is not None and Path(file).is_file():
        return read_calibration(file)
    calibration = calibrate(model, read_ordinary_prompts(), settings, source="ordinary-prompts.txt")
    if file is not None:
        write_calibration(calibration, file)
    return calibration


def held_out_titles(count: int) -> list[str]:
    """Ordinary titles that the testbed's list does not hold."""
    listed = set(read_ordinary_prompts())
    return [title for title in ordinary_titles(count + len(listed), SEED) if title not in listed][:count]


def held_out_descriptions(count: int) -> list[str]:
    """Descriptions that the calibration did not score, evenly spread."""
    listed = read_ordinary_prompts()
    scored = {listed[place * len(listed) // SCORE_PROMPTS] for place in range(SCORE_PROMPTS)}
    left = [one for one in ordinary_descriptions() if one not in scored]
    return [left[place * len(left) // count] for place in range(min(count, len(left)))]


def run_scan(arguments: argparse.Namespace) -> None:
    """See the module's docstring."""
    model, settings = model_of(arguments.variant), LocalizeSettings()
    calibration = calibrated(model, settings, arguments.calibration)
    memorized = [memory.caption for memory in read_ground_truth()]
    kinds = {
        "titles": held_out_titles(arguments.titles),
        "descriptions": held_out_descriptions(arguments.descriptions),
        "memorized": memorized,
    }
    corpus = [caption for captions in kinds.values() for caption in captions]
    search = ScanSettings(miss=arguments.miss)
    how = {"settings": settings, "calibration": calibration, "detector": arguments.detector}
    early = scan(model, corpus, search=search, **how)
    whole = scan(model, corpus, search=replace(search, sequential=False), **how)
    seeds = {one.prompt: one.seeds for one in early.records}
    above = {one.prompt for one in whole.records if one.memorized}
    kept = {one.prompt for one in early.records if one.memorized}
    print(
        f"{arguments.variant}, {arguments.detector}, threshold {early.threshold:.4f}, miss {arguments.miss:g}"
    )
    print(f"  {early.test.as_json()}")
    for name, captions in kinds.items():
        both = above & set(captions)
        print(
            f"  {name:12} {len(captions):4}: {statistics.mean(seeds[one] for one in captions):5.2f} seeds on "
            f"average; above the threshold {len(both)}, of these stopped early {len(both - kept)}"
        )
    for name, found in (("sequential", early), ("all seeds", whole)):
        print(f"  {name}: {found.work.unet_sample_forwards} sample-forwards, {found.work.seconds:.1f} s")


def pair_scores(model: LiveModel, captions: list[str], settings: LocalizeSettings) -> numpy.ndarray:
    """How alike the seeds of each caption are, [captions, seeds, seeds]."""
    latents = seeded_latents(model, settings.seed, settings.seeds)
    predictor, found = predictor_of(model, settings), []
    for caption in captions:
        noise = predictor.predict(latents, encode_prompts(model, [caption]))[None]
        found.append(Predictions(noise, latents, lambda: latents).pairwise.double().numpy())
    return numpy.concatenate(found)


def run_stops(arguments: argparse.Namespace) -> None:
    """See the module's docstring."""
    model, settings = model_of(arguments.variant), LocalizeSettings()
    listed = read_ordinary_prompts()
    scored = [listed[place * len(listed) // SCORE_PROMPTS] for place in range(SCORE_PROMPTS)]
    ordinary = pair_scores(model, scored, settings)
    kinds = {
        "titles": held_out_titles(arguments.titles),
        "descriptions": held_out_descriptions(arguments.descriptions),
        "memorized": [memory.caption for memory in read_ground_truth()],
    }
    pairs = {name: pair_scores(model, captions, settings) for name, captions in kinds.items()}
    everyone, order = range(settings.seeds), telling_order(ordinary)
    whole = mean_pairs(ordinary, everyone)
    threshold = whole.mean() + 2 * whole.std(ddof=1)
    print(f"{arguments.variant}, threshold {threshold:.4f}")
    for miss in (0.01, 0.02, 0.05, 0.1):
        for stops in ((2, 3, 5), STOPS):
            lines = [
                Line.through(whole.tolist(), mean_pairs(ordinary, order[:seeds]).tolist()) for seeds in stops
            ]
            bounds = [line.bound(threshold, miss / len(stops)) for line in lines]
            told = []
            for name, some in pairs.items():
                looked = numpy.stack([mean_pairs(some, order[:seeds]) for seeds in stops], axis=1)
                stopped = looked <= bounds
                seeds = numpy.where(stopped.any(1), numpy.array(stops)[stopped.argmax(1)], settings.seeds)
                above = mean_pairs(some, everyone) > threshold
                lost = (above & stopped.any(1)).sum()
                told.append(f"{name} {seeds.mean():.2f} ({lost} of {above.sum()} above it stopped)")
            print(f"  miss {miss:g}, stops {stops}: {', '.join(told)}")


def run_one_in_many(arguments: argparse.Namespace) -> None:
    """See the module's docstring."""
    model, settings = model_of(arguments.variant), LocalizeSettings()
    calibration = calibrated(model, settings, arguments.calibration)
    random = numpy.random.default_rng(SEED)
    memorized = str(random.choice([memory.caption for memory in read_ground_truth()]))
    corpus = ordinary_titles(arguments.captions - 1, SEED)
    corpus.insert(int(random.integers(len(corpus))), memorized)
    search = ScanSettings(miss=arguments.miss)
    found = scan(model, corpus, settings=settings, calibration=calibration, search=search)
    place = [one.prompt for one in found.records].index(memorized) + 1
    print(
        f"{arguments.variant}: 1 memorized caption of {len(corpus)}: rank {place}, "
        f"{sum(one.memorized for one in found.records)} above the threshold; "
        f"{found.work.unet_sample_forwards / len(corpus):.3f} sample-forwards a caption, "
        f"{found.work.seconds:.0f} s"
    )


def scores_by_seeds(scorer: SequentialScorer, captions: list[str]) -> numpy.ndarray:
    """Scores over the first 2, 3, 5, ... and over all seeds of each caption, [captions, looks]."""
    stages = []
    seeds = [*(stop.seeds for stop in scorer.test.stops), len(scorer.latents)]
    for count in seeds:
        order = scorer.test.order[:count]
        # a test on these seeds alone, so that each look is what `scan` would have seen
        part = SequentialScorer(
            scorer.predictor, scorer.detector, scorer.latents[list(order)], SequentialTest.all_seeds(count)
        )
        stages.append([one.score for one in part(captions)])
    return numpy.array(stages).T


def run_simulation(arguments: argparse.Namespace) -> None:
    """See the module's docstring."""
    model, settings = model_of(arguments.variant), LocalizeSettings()
    calibration = calibrated(model, settings, arguments.calibration)
    detector = registry.detector(DETECTOR)
    threshold = calibration.threshold(detector)
    test = SequentialTest.of(calibration.looks, DETECTOR, threshold, settings.seeds, arguments.miss)
    latents = seeded_latents(model, settings.seed, settings.seeds)
    scorer = SequentialScorer(predictor_of(model, settings), detector, latents, test)
    titles = scores_by_seeds(scorer, held_out_titles(arguments.titles))
    memories = scores_by_seeds(scorer, [memory.caption for memory in read_ground_truth()])
    bounds = numpy.array([stop.bound for stop in test.stops])
    counts = numpy.array([stop.seeds for stop in test.stops])
    random, forwards, found, alarms = numpy.random.default_rng(SEED), [], 0, []
    for _ in range(arguments.runs):
        chosen = titles[random.integers(len(titles), size=arguments.captions - 1)]
        corpus = numpy.concatenate([chosen, memories[random.integers(len(memories), size=1)]])
        below = corpus[:, :-1] <= bounds
        stopped = below.any(1)
        seeds = numpy.where(stopped, counts[below.argmax(1)], settings.seeds)
        above = ~stopped & (corpus[:, -1] > threshold)
        forwards.append(seeds.mean())
        found += int(above[-1])
        alarms.append(int(above[:-1].sum()))
    print(
        f"{arguments.variant}: {arguments.runs} simulated corpora of {arguments.captions} captions, "
        f"1 memorized: found in {found}; {statistics.mean(forwards):.3f} sample-forwards a caption "
        f"(largest {max(forwards):.3f}); ordinary captions above the threshold {statistics.mean(alarms):.1f}"
    )


def judged(localizer: PromptLocalizer, caption: str) -> Gate:
    """What the gate of `localize` says of a caption."""
    evaluator = PromptEvaluator(
        localizer.predictor,
        encode_prompts(localizer.model, [caption]),
        localizer.latents,
        localizer.criterion.of_prompt(caption),
    )
    return evaluator.judge(localizer.thresholds.gate)


def run_second_look(arguments: argparse.Namespace) -> None:
    """See the module's docstring."""
    model, settings = model_of(arguments.variant), LocalizeSettings()
    calibration = calibrated(model, settings, arguments.calibration)
    ordinary = held_out_titles(arguments.titles) + held_out_descriptions(arguments.descriptions)
    memorized = [memory.caption for memory in read_ground_truth()]
    corpus = memorized + ordinary
    look = SecondLook.of(model, calibration, settings)
    assert look is not None
    localizer = PromptLocalizer(model, calibration, settings)
    passed = {caption: gate.score for caption in corpus if (gate := judged(localizer, caption)).kept}
    predictor, records = predictor_of(model, settings), []
    for caption in corpus:
        if caption not in passed:
            records.append(PromptRecord(caption, NOT_MEMORIZED, 0.0, details={"evaluations": 1, "work": {}}))
            continue
        found = look(predictor, caption)
        details = {"second_look": found.as_json(), "evaluations": 1, "work": {}}
        outcome = NOT_MEMORIZED if found.reason else LOCALIZED
        if found.reason:
            details["reason"] = found.reason
        records.append(PromptRecord(caption, outcome, passed[caption], details=details))
    ended = {
        one.prompt for one in corrected(records, settings.false_discovery_rate) if one.outcome == LOCALIZED
    }
    before, after = len(passed.keys() & set(ordinary)), len(ended & set(ordinary))
    print(
        f"{arguments.variant}: of {len(ordinary)} held-out ordinary captions {before} "
        f"({100 * before / len(ordinary):.1f} %) pass the gate, {after} "
        f"({100 * after / len(ordinary):.1f} %) "
        f"the second look and the correction at {settings.false_discovery_rate:g}; of {len(memorized)} "
        f"memorized {len(passed.keys() & set(memorized))} and {len(ended & set(memorized))}"
    )
    print(f"  second look: {predictor.work.unet_sample_forwards} sample-forwards")
    for one in sorted(passed.keys() & set(ordinary)):
        record = next(record for record in records if record.prompt == one)
        print(f"  {one!r}: {record.details}")


def hashed_pictures(kind: str, count: int) -> list[Image.Image]:
    """Pictures 64 x 64 that have nothing to do with each other."""
    random = numpy.random.default_rng((SEED, len(kind)))
    arrays = (
        draw_scene(random)
        if kind == "scenes"
        else draw_ordinary(random, str(random.choice(list(COLORS))), str(random.choice(SHAPES)))
        for _ in range(count)
    )
    return [Image.fromarray(((one.transpose(1, 2, 0) + 1) * 127.5).round().astype("uint8")) for one in arrays]


def recompressed(picture: Image.Image, quality: int = 30) -> Image.Image:
    """Through a JPEG and back."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def cut(picture: Image.Image, left: float, right: float) -> Image.Image:
    """Without these shares of its width and height at the left and top, and at the right and bottom."""
    box = (round(64 * left), round(64 * left), round(64 * (1 - right)), round(64 * (1 - right)))
    return picture.crop(box).resize((64, 64), Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed (JPEG 30)": recompressed,
    "half the size": lambda one: one.resize((32, 32), Image.Resampling.BICUBIC),
    "brighter by 20 %": lambda one: one.point(lambda value: min(255, int(value * 1.2))),
    "shifted by 1/64": lambda one: cut(one, 1 / 64, 0),
    "shifted by 2/64": lambda one: cut(one, 2 / 64, 0),
    "shifted by 3/64": lambda one: cut(one, 3 / 64, 0),
    "cropped by 3 % a side": lambda one: cut(one, 0.03, 0.03),
    "cropped by 5 % a side": lambda one: cut(one, 0.05, 0.05),
    "cropped by 8 % a side": lambda one: cut(one, 0.08, 0.08),
    "shifted, cropped, JPEG 50": lambda one: recompressed(cut(cut(one, 1 / 64, 0), 0.03, 0.03), 50),
}


def run_hashes(arguments: argparse.Namespace) -> None:
    """See the module's docstring."""
    radii = (6, 8, 10, 12)
    for kind in ("scenes", "shapes on smooth fields"):
        pictures = hashed_pictures(kind, arguments.pictures)
        found = [picture_hash(one) for one in pictures]
        hashed = [place for place, one in enumerate(found) if one is not None]
        hashes = as_array(one for one in found if one is not None)
        apart = distances(hashes[:, None], hashes[None])[numpy.triu_indices(len(hashes), 1)]
        print(f"{kind}: {len(pictures)} pictures, {len(pictures) - len(hashed)} without features")
        false = "  ".join(f"{radius}: {int((apart <= radius).sum())}" for radius in radii)
        print(f"  false pairs among {len(apart)}, by radius:  {false}  (mean distance {apart.mean():.1f})")
        for name, change in CHANGES.items():
            near = []
            for place, own in zip(hashed, hashes, strict=True):
                copy = picture_hash(change(pictures[place]))
                near.append(64 if copy is None else int(distances(as_array([copy]), own[None])[0]))
            shares = "  ".join(f"{radius}: {numpy.mean(numpy.array(near) <= radius):.3f}" for radius in radii)
            print(f"  {name:26} found, by radius:  {shares}")
    random = numpy.random.default_rng(SEED)
    many = random.integers(0, 2**64, size=arguments.hashes, dtype=numpy.uint64)
    copies = many[: arguments.hashes // 100].copy()
    for _ in range(8):
        copies ^= numpy.uint64(1) << random.integers(0, 64, size=len(copies), dtype=numpy.uint64)
    many[-len(copies) :] = copies
    for radius in (7, 10):
        started = time.perf_counter()
        result = near_duplicates(many, radius)
        print(
            f"{len(many)} random hashes, every hundredth with a copy 8 flips away, radius {radius}: "
            f"{len(result.pairs)} pairs in {time.perf_counter() - started:.1f} s"
        )


RUNS = {
    "scan": run_scan,
    "stops": run_stops,
    "one-in-many": run_one_in_many,
    "simulate": run_simulation,
    "second-look": run_second_look,
    "hashes": run_hashes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--variant", choices=("planted", "natural"), default="planted")
    parser.add_argument("--titles", type=int, default=200)
    parser.add_argument("--descriptions", type=int, default=100)
    parser.add_argument("--captions", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--miss", type=float, default=ScanSettings().miss)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--hashes", type=int, default=100_000)
    parser.add_argument("--detector", default=DETECTOR, help="of `scan`")
    parser.add_argument("--calibration", metavar="FILE", help="read from here, or written here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RUNS[arguments.what](arguments)


if __name__ == "__main__":
    main()
