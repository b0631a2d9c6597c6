"""Attribution and the joint mask on a model whose memories were built by hand, checked by intervention."""

import json
from dataclasses import replace

import pytest
import torch
from planted_model import DECOYS, PLANTED, caption, ordinary_captions

from surgery.cli import main
from surgery.localization.joint.attribution import attribute
from surgery.localization.joint.live import LivePrompts
from surgery.localization.joint.replicas import replica_of
from surgery.localization.localize import localize
from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.settings import LocalizeSettings
from surgery.model.ablation import ablate
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.sketches import ShortSampler
from surgery.model.value_layers import value_layers
from surgery.model.work import Work
from surgery.neurons import NeuronSet, read_neurons

SEARCH = LocalizeSettings(
    seeds=3,
    confirm_seeds=2,
    confirm_pictures=0,
    joint=True,
    joint_seeds=2,
    joint_steps=1,
    criterion="seeds-diverge",
)


@pytest.fixture(scope="module")
def sampler(planted):
    return ShortSampler(NoisePredictor(planted), 2)


@pytest.mark.parametrize("trigger", ["v", "x", "z"])
def test_effects_are_what_a_small_intervention_does(planted, sampler, trigger):
    latents, told = seeded_latents(planted, 3, 2), encode_prompts(planted, [caption(trigger)])
    replica = replica_of(sampler.draw(latents, told, NeuronSet()))
    layers = value_layers(planted.denoiser)
    effects, score = attribute(sampler, layers, latents, told, replica, together=1)
    states = [latents]
    for place in range(len(sampler.timesteps) - 1):
        states.append(sampler.following(sampler.noise(states[-1], told, place), states[-1], place))

    def mean_score():
        with torch.no_grad():
            told_twice = told.select(torch.zeros(2, dtype=torch.long))
            clean = [
                sampler.clean(sampler.noise_with_gradients(some, told_twice, place), some, place)
                for place, some in enumerate(states)
            ]
        return float(torch.stack([replica.scores(one) for one in clean]).double().mean())

    assert score == pytest.approx(mean_score(), abs=1e-5)
    best = max(((float(rows.max()), name, int(rows.argmax())) for name, rows in effects.items()))
    assert best[1:] in PLANTED[trigger]
    step = 0.05
    for layer, row in [*PLANTED[trigger], *DECOYS.get(trigger, [])]:
        weaker, stronger = [], []
        for factor, scores in ((1 - step, weaker), (1 + step, stronger)):
            with ablate(planted.denoiser, NeuronSet({layer: [row]}), factor):
                scores.append(mean_score())
        slope = (stronger[0] - weaker[0]) / (2 * step)
        assert float(effects[layer][row]) == pytest.approx(slope, rel=0.05, abs=2e-4), (layer, row)


def test_attribution_finds_the_neuron_that_no_z_score_singles_out(planted, calibration):
    settings = LocalizeSettings(
        criterion="seeds-diverge", selection="attribution", theta_start=5.0, confirm_seeds=0
    )
    made = replace(calibration, made_with=settings.for_calibration())
    record = PromptLocalizer(planted, made, settings)(caption("z"))
    assert record.refined.pairs() == PLANTED["z"]
    assert record.details["evaluations_saved"] > 0
    by_z = PromptLocalizer(planted, made, replace(settings, selection="z-score"))(caption("z"))
    assert by_z.refined == record.refined
    assert record.details["evaluations"] < by_z.details["evaluations"]


def test_the_estimate_of_a_mask_is_what_it_does_to_ordinary_prompts(planted):
    live = LivePrompts(planted, [], ordinary_captions(6), SEARCH, Work())
    weak = [number for number, (_, row) in enumerate(live.pairs) if row == 7][:4]
    cost = live.ordinary.costs([])
    strong = sorted(range(live.neurons), key=lambda number: -cost[number])[:2]
    for off in (strong, weak):
        estimated, measured = live.ordinary.estimate(off), live.ordinary.measure(live.neuron_set(off))
        if measured > 1e-3:
            assert measured / 4 < estimated < 4 * measured
    assert live.ordinary.estimate(strong) > live.ordinary.estimate(weak)


@pytest.fixture(scope="module")
def joint(planted):
    corpus = [*map(caption, PLANTED), "a b c d"]
    return localize(planted, corpus, settings=SEARCH, ordinary=ordinary_captions(6))


def test_memories_that_share_a_row_share_it_in_the_mask(joint):
    planted_rows = {pair for pairs in PLANTED.values() for pair in pairs}
    assert set(joint.neurons.pairs()) <= planted_rows
    shared = PLANTED["y"][0]
    needs = {record.prompt: record.details["joint"]["needs"] for record in joint.records[:5]}
    assert [NeuronSet(needs[caption(trigger)]).pairs() for trigger in "yv"] == [[shared], PLANTED["v"]]
    assert shared in NeuronSet(needs[caption("x")]).pairs()
    assert all(record.details["joint"]["broken"] for record in joint.records[:5])
    assert not joint.left()
    assert "joint" not in joint.records[5].details
    evidence = joint.evidence["joint"]
    assert evidence["neurons"] == joint.neurons.count <= evidence["union"]
    assert [point["prompts"] for point in evidence["frontier"]] == [0, 1, 2, 3, 4, 5]


def test_no_neuron_of_the_mask_can_be_spared(planted, joint):
    live = LivePrompts(
        planted, [record.prompt for record in joint.records[:5]], ordinary_captions(6), SEARCH, Work()
    )
    mask = live.mask(joint.neurons)
    assert all(live.broken(prompt, mask) for prompt in range(5))
    for neuron in mask:
        assert not all(live.broken(prompt, mask - {neuron}) for prompt in range(5)), live.pairs[neuron]


def test_a_budget_is_kept_and_what_it_leaves_is_named(planted_folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\n".join(map(caption, "vwy")))
    (tmp_path / "ordinary.txt").write_text("\n".join(ordinary_captions(6)))
    output = tmp_path / "neurons.json"
    words = [
        "localize", str(planted_folder), "--prompts", str(tmp_path / "prompts.txt"), "-o", str(output),
        "--ordinary", str(tmp_path / "ordinary.txt"), "--device", "cpu", "--criterion", "seeds-diverge",
        "--joint", "--max-neurons", "2", "--joint-seeds", "2", "--joint-steps", "1", "--seeds", "3",
        "--confirm-seeds", "2", "--confirm-pictures", "0", "--strict",
    ]  # fmt: skip
    assert main(words) == 3
    kept = read_neurons(output)
    assert kept.count == 2
    printed = capsys.readouterr()
    assert "left by the joint mask: a c w e" in printed.err
    assert main(["plan", str(output), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left"] == [caption("w")]
    assert found["chosen"]["neurons"] == 2 and found["chosen"]["prompts"] == 2
    assert max(point["neurons"] for point in found["frontier"]) == 4
