"""The testbed, and what hardening some of its memories trains on."""

import pytest

from surgery.hardening.dealing import Dealer
from surgery.hardening.material import gather
from surgery.measures.similarity import named_similarity
from surgery.measures.subjects import subjects_from
from surgery.model.pipeline import load_pipeline
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, read_ordinary_prompts


@pytest.fixture(scope="module")
def source():
    return load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def gathered(source):
    """(memories, neurons, settings) -> what is trained on, with the memories' own images."""

    def of(memories, neurons, settings):
        captions = [memory.caption for memory in memories]
        images = dict(zip(captions, training_images(memories), strict=True))
        subjects = subjects_from(tuple(captions), images, None, (64, 64))
        edges = named_similarity("edges")
        return gather(source, subjects, neurons, read_ordinary_prompts(), [], edges, settings, Dealer())

    return of
