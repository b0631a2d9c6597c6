"""`discovery.py stops` and `simulate`: what other tests, and larger corpora, make of measured scores."""

from __future__ import annotations

import argparse
import statistics

import numpy
from discovery_corpora import SEED, calibrated, held_out_descriptions, held_out_titles, model_of

from surgery.localization import registry
from surgery.localization.calibration import predictor_of
from surgery.localization.discovery.looks import STOPS, Line, mean_pairs, telling_order
from surgery.localization.discovery.sequential import SequentialScorer, SequentialTest
from surgery.localization.predictions import Predictions
from surgery.localization.settings import SCORE_PROMPTS, LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import seeded_latents
from surgery.model.pipeline import LiveModel
from surgery.testbed.load import read_ground_truth, read_ordinary_prompts

DETECTOR = "seeds-diverge"


def pair_scores(model: LiveModel, captions: list[str], settings: LocalizeSettings) -> numpy.ndarray:
    """How alike the seeds of each caption are, [captions, seeds, seeds]."""
    latents = seeded_latents(model, settings.seed, settings.seeds)
    predictor, found = predictor_of(model, settings), []
    for caption in captions:
        noise = predictor.predict(latents, encode_prompts(model, [caption]))[None]
        found.append(Predictions(noise, latents, lambda: latents).pairwise.double().numpy())
    return numpy.concatenate(found)


def run_stops(arguments: argparse.Namespace) -> None:
    """Other stops and chances of a miss, on the same captions."""
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
    """Corpora of measured scores, one memorized caption in each."""
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
