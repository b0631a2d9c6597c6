"""`discovery.py scan` and `one-in-many`: corpora through the denoiser, by the sequential test."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import numpy
from discovery_corpora import SEED, calibrated, held_out_descriptions, held_out_titles, model_of

from surgery.localization.discovery.settings import ScanSettings
from surgery.localization.scan import scan
from surgery.localization.settings import LocalizeSettings
from surgery.testbed.captions import ordinary_titles
from surgery.testbed.load import read_ground_truth


def run_scan(arguments: argparse.Namespace) -> None:
    """The test beside all seeds, on held-out and memorized captions."""
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


def run_one_in_many(arguments: argparse.Namespace) -> None:
    """One memorized caption at a random place among ordinary titles."""
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
