"""What a prompt should draw in place of its memory is no other way to the memory."""

import pytest
import torch

from surgery.hardening.dealing import Dealer
from surgery.hardening.lessons import paths_of
from surgery.hardening.settings import HardenSettings
from surgery.hardening.surrogates import TRIES, Target, choose_surrogates, safe_candidates, surrogate_paths
from surgery.measures.pictures import reconstruct
from surgery.measures.similarity import named_similarity
from surgery.model.conditioning import encode_prompts
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import read_ground_truth, read_ordinary_prompts

MEMORIES = [memory for memory in read_ground_truth() if memory.name in ("boat", "moon")]
CAPTIONS = [memory.caption for memory in MEMORIES]
ORDINARY, EDGES = read_ordinary_prompts(), named_similarity("edges")
SETTINGS = HardenSettings(
    surrogates=1, positions=12, ordinary=6, neighbors=4, gate_controls=1, drawing_steps=4, batch_size=16
)


@pytest.fixture(scope="module")
def targets(source):
    pictures = reconstruct(source, training_images(MEMORIES))
    return [Target(one, None, EDGES) for one in pictures]


def chosen(source, own, candidates, targets):
    drawn = surrogate_paths(source, own, SETTINGS).alone()
    return choose_surrogates(source, own, drawn, candidates, targets, SETTINGS, Dealer())


def test_a_prompt_that_draws_the_memory_stands_in_for_nothing(source, targets):
    """The captions themselves are offered as their own neighbors; an ordinary prompt is the next."""
    own = encode_prompts(source, CAPTIONS)
    candidates = [[caption, caption, ORDINARY[3], ORDINARY[4]] for caption in CAPTIONS]
    lessons, resolved, safe = chosen(source, own, candidates, targets)
    assert resolved == [False, False]
    wanted = encode_prompts(source, [ORDINARY[3]])
    for place in range(2):
        assert torch.equal(safe.embeddings[place], wanted.embeddings[0])
    assert sorted(lessons.prompts.unique().tolist()) == [0, 1] and len(lessons) == 2 * SETTINGS.positions


def test_the_last_candidate_is_taken_as_it_is(source, targets):
    own = encode_prompts(source, CAPTIONS)
    _, _, safe = chosen(source, own, [[one] * TRIES for one in CAPTIONS], targets)
    assert torch.equal(safe.embeddings, own.embeddings)


def test_prompts_seen_to_leak_are_tried_last_and_an_ordinary_one_after_them():
    found = safe_candidates([["bad", "good", "fine", "more"], []], [["bad"], []], ["first", "second"])
    assert found == [["good", "fine", "more", "first"], ["second"] * TRIES]
    assert safe_candidates([["bad"]], [["bad"]], [])[0] == ["bad", "", "", ""]


def test_what_is_kept_draws_no_memory_and_what_draws_one_is_attacked(source, targets, gathered):
    """Without neurons every prompt is unresolved; neighbors that keep the word on which it hangs draw it."""
    material = gathered(MEMORIES, NeuronSet(), SETTINGS)
    leaks = [len(memory.leaks) for memory in material.memories]
    assert all(not memory.resolved for memory in material.memories)
    assert max(leaks) > 1, "a neighbor leaks, or this test shows nothing"
    offered = SETTINGS.neighbors * len(MEMORIES)
    assert len(material.neighbors) == offered - (sum(leaks) - len(leaks))
    for memory in material.memories:
        for told in memory.leaks[1:]:
            assert not torch.equal(told.embeddings, memory.own.embeddings)
    _, ends = paths_of(source, material.safe, [8, 9], SETTINGS.positions, 16).alone()
    for place, target in enumerate(targets):
        assert not target.is_drawn(source, ends[place : place + 1]).any()
    words = material.kept.prompts.unique()
    assert len(words) == len(material.told) - (sum(leaks) - len(leaks)), "no lesson of a prompt that leaks"
