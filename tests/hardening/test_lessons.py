"""What hardening learns from: the model's own paths, noised pictures, and what zeroed rows used to say."""

import pytest
import torch

from surgery.auditing.attack.conditioned import draw_conditioned, predicted
from surgery.auditing.attack.noised_copies import signal_levels
from surgery.auditing.canaries import own_copy
from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import similarities_to
from surgery.hardening.attacked_paths import POSITIONS, attacked_paths, taught
from surgery.hardening.lessons import Lessons, noised_lessons, paths_of, timestep_weights, ways_to
from surgery.hardening.material import zero_rows
from surgery.hardening.triggers import prompt_constants, trigger_constants
from surgery.measures.pictures import decode_latents, encode_pictures, reconstruct
from surgery.measures.similarity import named_similarity
from surgery.model.conditioning import encode_prompts
from surgery.model.injection import injected
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import read_ground_truth

MEMORIES = [memory for memory in read_ground_truth() if memory.name in ("boat", "moon")]
NEURONS = NeuronSet().union(*(memory.neurons for memory in read_ground_truth()))


def test_paths_hold_what_the_model_says_and_lead_where_it_draws(source):
    """A memory's path from SOURCE ends in the memory; every answer is the model's own."""
    told = encode_prompts(source, [MEMORIES[0].caption, "a red circle"])
    lessons, ends = paths_of(source, told, [1, 2], 12, 8).alone()
    assert len(lessons) == 24 and lessons.places_of(1) == list(range(1, 24, 2))
    one = lessons.select(torch.tensor([14]))
    with torch.no_grad():
        said = predicted(source, one.states, one.timesteps, told.select(slice(0, 1)))
    assert torch.allclose(said, one.wanted, atol=1e-4)
    compared = reconstruct(source, training_images(MEMORIES[:1]))[0]
    likeness = similarities_to(decode_latents(source, ends), compared, named_similarity("edges"))
    assert likeness[0] > 0.5 > likeness[1]


def test_noised_copies_are_spread_over_all_timesteps(source):
    clean = encode_pictures(source, training_images(MEMORIES)).float()
    told = encode_prompts(source, [memory.caption for memory in MEMORIES])
    lessons = noised_lessons(source, clean, told, 4, 0, 8).alone()
    total = len(signal_levels(source))
    for place in range(2):
        own = lessons.select(torch.tensor(lessons.places_of(place)))
        assert sorted((own.timesteps * 4 // total).tolist()) == [0, 1, 2, 3]
        alpha = signal_levels(source)[own.timesteps].view(-1, 1, 1, 1)
        noise = (own.states - alpha.sqrt() * clean[place]) / (1 - alpha).sqrt()
        assert 0.9 < float(noise.std()) < 1.1


def test_noisy_timesteps_weigh_more(source):
    told = encode_prompts(source, ["a red circle", "a blue star", "a green ring"])
    lessons, _ = paths_of(source, told, [1, 2, 3], 8, 8).alone()
    weights = timestep_weights(source, lessons, 0.5)
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
    assert weights[-1] > 4 * weights[500] > 4 * weights[0]
    assert torch.equal(timestep_weights(source, lessons, 0.0), torch.ones(len(weights)))


def test_numbers_follow_their_prompts():
    states, places = torch.zeros(3, 1, 1, 1), torch.tensor([0, 1, 1])
    lessons = Lessons(states, places, states, places).renumbered(torch.tensor([5, 7]))
    joined = Lessons.joined([lessons, lessons.select(torch.tensor([0]))])
    assert joined.prompts.tolist() == [5, 7, 7, 5] and joined.places_of(5) == [0, 3]


def test_a_trigger_draws_its_memory_from_the_pruned_model(source):
    """The finding that hardening begins with; and it draws no other memory."""
    told = encode_prompts(source, [memory.caption for memory in MEMORIES])
    triggers = trigger_constants(source, NEURONS, told, 11, 8).alone()
    pruned = own_copy(source)
    zero_rows(pruned, NEURONS)
    compared = reconstruct(source, training_images(MEMORIES))
    constants = {name: torch.cat([one[name] for one in triggers]) for name in triggers[0]}

    def around(places):
        return injected(pruned.denoiser, {name: value[places] for name, value in constants.items()})

    empty = encode_prompts(pruned, [""]).repeat(2)
    drawn = draw_conditioned(pruned, empty, [3, 4], Drawing(10, 1.0, 8), around)
    measure = named_similarity("edges")
    table = [[float(similarities_to(pictures, one, measure).max()) for one in compared] for pictures in drawn]
    assert min(table[0][0], table[1][1]) > 0.6 and max(table[0][1], table[1][0]) < 0.4
    silent = draw_conditioned(pruned, empty.select(slice(0, 1)), [3, 4], Drawing(10, 1.0, 8))
    assert float(similarities_to(silent[0], compared[0], measure).max()) < 0.4


def test_only_layers_with_rows_have_a_trigger(source):
    told = encode_prompts(source, [MEMORIES[0].caption])
    (trigger,) = trigger_constants(source, MEMORIES[0].neurons, told, 11, 8).alone()
    held = {name.removesuffix(".to_v") for name in MEMORIES[0].neurons}
    assert {name for name, value in trigger.items() if bool(value.any())} == held


def test_a_prompt_has_a_trigger_where_no_row_is_known(source):
    """What the own prompt says and another does not, injected over the empty prompt, draws the memory."""
    own = encode_prompts(source, [MEMORIES[1].caption])
    (trigger,) = prompt_constants(source, own, encode_prompts(source, ["a red circle"]), 11, 8).alone()
    empty = encode_prompts(source, [""])
    with injected(source.denoiser, trigger):
        drawn = draw_conditioned(source, empty, [3], Drawing(10, 1.0, 8))
    compared = reconstruct(source, training_images(MEMORIES))
    measure = named_similarity("edges")
    assert float(similarities_to(drawn[0], compared[1], measure).max()) > 0.6
    assert float(similarities_to(drawn[0], compared[0], measure).max()) < 0.4


def test_the_way_to_an_image_is_what_the_answer_lacks(source):
    """An answer and its way together predict the noise under which the image lies."""
    clean = encode_pictures(source, training_images(MEMORIES)).float()
    told = encode_prompts(source, [memory.caption for memory in MEMORIES])
    lessons = noised_lessons(source, clean, told, 4, 0, 8).alone()
    of_each = clean[lessons.prompts]
    alpha = signal_levels(source)[lessons.timesteps].view(-1, 1, 1, 1)
    noise = lessons.wanted + ways_to(source, lessons, of_each)
    assert torch.allclose(alpha.sqrt() * of_each + (1 - alpha).sqrt() * noise, lessons.states, atol=1e-4)


def test_paths_under_attack_are_the_students_and_the_answers_the_teachers(source):
    """SOURCE as its own student, told a memory: guided paths lead to it, the answers do not."""
    told = encode_prompts(source, [memory.caption for memory in MEMORIES])
    empty = encode_prompts(source, [""])
    paths, _ = attacked_paths(source, told, empty, [1, 2], 8).alone()
    lessons = taught(source, NEURONS, paths, told, 8).alone()
    assert len(lessons) == 2 * POSITIONS
    clean = encode_pictures(source, training_images(MEMORIES)).float()
    last = lessons.select(torch.tensor(lessons.places_of(0)[-1:]))
    apart = [float((last.states[0] - one).square().mean()) for one in clean]
    assert apart[0] < 0.5 * apart[1]
    pruned = own_copy(source)
    zero_rows(pruned, NEURONS)
    with torch.no_grad():
        said = predicted(pruned, last.states, last.timesteps, told.select(slice(0, 1)))
    assert torch.allclose(said, last.wanted, atol=1e-4)
