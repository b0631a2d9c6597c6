"""The criteria on the testbed, where it is known what each memory hangs on and what it draws."""

import pytest
import torch

from surgery.localization import confirmation
from surgery.localization.calibration import calibrate
from surgery.localization.fixed import fixed_tiles
from surgery.localization.localize import localize
from surgery.localization.ms_ssim import window_of
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import load_pipeline
from surgery.neurons import NeuronSet
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth, read_ordinary_prompts

SETTINGS = LocalizeSettings()


@pytest.fixture(scope="module", autouse=True)
def pictures_in_all_their_steps(quick_pictures):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confirmation, "PICTURE_STEPS", 10)
        yield


@pytest.fixture(scope="module")
def testbed():
    model = load_pipeline(PLANTED_FOLDER, device="cpu")
    calibration = calibrate(model, read_ordinary_prompts(PLANTED_FOLDER)[::20], SETTINGS, score_prompts=16)
    return model, calibration, {memory.name: memory for memory in read_ground_truth(PLANTED_FOLDER)}


def evaluator_of(testbed, name, caption):
    model, calibration, _ = testbed
    latents = seeded_latents(model, SETTINGS.seed, SETTINGS.seeds)
    criterion = calibration.criterion(name).of_prompt(caption)
    return PromptEvaluator(NoisePredictor(model), encode_prompts(model, [caption]), latents, criterion)


@pytest.mark.parametrize("name", ["seeds-diverge", "target-gone"])
def test_a_memory_left_at_some_of_the_seeds_is_not_broken(testbed, name):
    _, calibration, memories = testbed
    memory = memories["sunset"]
    evaluator = evaluator_of(testbed, name, memory.caption)
    criterion, threshold = evaluator.criterion, calibration.threshold(calibration.criterion(name))
    assert evaluator.judge(threshold).kept
    whole = evaluator.unablated
    off = criterion.look(evaluator.predictor, evaluator.latents, evaluator.conditioning, memory.neurons, None)
    window = window_of(16, 16)
    for left in range(11):
        seen = torch.cat([whole[:left], off[left:]])
        parts = criterion.parts(seen, lambda: whole, 10, window)
        # One seed alone can't agree with another: only what it draws tells.
        assert (criterion.score_of(parts) > threshold) == (left >= (3 if name == "seeds-diverge" else 1)), (
            left,
            parts,
        )
        if name == "seeds-diverge":
            # The mean alone calls the memory broken.
            assert left not in (3, 4) or parts["prompts"] <= threshold
            assert parts["agreeing_seeds"] == (left if left > 1 else 0)
        else:
            assert parts["resembling_seeds"] == left


def test_ordinary_prompts_pass_no_gate_and_memories_all(testbed):
    _, calibration, memories = testbed
    ordinary = read_ordinary_prompts(PLANTED_FOLDER)[7::140]
    for name in ("seeds-diverge", "target-gone"):
        threshold = calibration.threshold(calibration.criterion(name))
        scores = [evaluator_of(testbed, name, caption).judge(threshold).score for caption in ordinary]
        assert sum(score > threshold for score in scores) <= 1, (name, scores)
        for memory in ("poster", "umbrella"):
            assert evaluator_of(testbed, name, memories[memory].caption).judge(threshold).kept


def test_the_window_of_a_template_is_found_without_a_mask(testbed):
    _, _, memories = testbed
    evaluator = evaluator_of(testbed, "target-gone", memories["stamp"].caption)
    evaluator.judge(0.0)
    truth = torch.from_numpy(memories["stamp"].mask()).float()
    share = torch.nn.functional.adaptive_avg_pool2d(truth[None, None], 4)[0, 0]
    found = fixed_tiles(evaluator.unablated)
    assert not found[share == 0].any()
    assert found[share == 1].all()


def test_target_gone_finds_what_the_other_criterion_leaves_and_pictures_tell_the_difference(testbed):
    model, calibration, memories = testbed
    memory = memories["stamp"]
    found = {
        name: localize(
            model, [memory.caption], calibration=calibration, settings=LocalizeSettings(criterion=name)
        )
        for name in ("seeds-diverge", "target-gone")
    }
    one, both = (found[name].records[0] for name in ("seeds-diverge", "target-gone"))
    assert one.refined.count < both.refined.count
    assert both.refined == found["target-gone"].neurons == memory.neurons
    # The scores on fresh noise call both of them broken. Pictures at the pipeline's own guidance do not.
    assert one.details["confirmed"]["broken"] and both.details["confirmed"]["broken"]
    shown = [record.details["final"]["pictures"] for record in (one, both)]
    assert all(pictures["guidance"] == 7.5 and pictures["source_replicas"] == 3 for pictures in shown)
    assert shown[0]["replicas"] > 0 == shown[1]["replicas"]
    assert one.is_left and not both.is_left
    assert found["seeds-diverge"].left() == [one]
    assert one.details["final"]["noise"]["broken"] and not one.details["final"]["broken"]


def test_with_the_training_image_the_same_rows_are_found_and_the_record_says_so(testbed):
    model, calibration, memories = testbed
    memory = memories["umbrella"]
    place = list(memories).index("umbrella")
    image = training_images(list(memories.values()))[place]
    settings = LocalizeSettings(criterion="target-gone", confirm_pictures=2)
    found = localize(
        model, [memory.caption], calibration=calibration, settings=settings, images={memory.caption: image}
    )
    record = found.records[0]
    assert record.refined.count > 0
    assert set(record.refined.pairs()) <= set(memory.neurons.pairs())
    assert found.evidence["images"] == 1
    assert set(record.details["parts"]["after"]) == {"strangers_image", "likeness_mean", "resembling_seeds"}
    assert record.details["final"]["pictures"]["against"] == "training image"
    assert not record.is_left
    assert "image_unlike" not in record.details


def test_a_wrong_image_does_not_acquit_its_prompt(testbed):
    """Nothing that SOURCE draws resembles it; the memory is found all the same, by SOURCE's own replica."""
    model, calibration, memories = testbed
    memory = memories["umbrella"]
    place = list(memories).index("umbrella")
    other = training_images(list(memories.values()))[place - 5]
    settings = LocalizeSettings(criterion="target-gone", confirm_pictures=2)
    record = localize(
        model, [memory.caption], calibration=calibration, settings=settings, images={memory.caption: other}
    ).records[0]
    assert record.details["image_unlike"] is True
    assert record.refined.count > 0 and set(record.refined.pairs()) <= set(memory.neurons.pairs())
    assert record.details["final"]["pictures"]["against"] == "own replica"
    assert not record.is_left


def test_a_prompt_that_the_corpus_set_leaves_is_named(testbed):
    model, calibration, memories = testbed
    captions = [memories[name].caption for name in ("sunset", "tree")]
    settings = LocalizeSettings(confirm_pictures=2)
    # Only neurons that two prompts need: none. Each prompt's own set breaks it, the corpus's does not.
    found = localize(model, captions, calibration=calibration, settings=settings, minimum_prompts=2)
    assert found.neurons == NeuronSet()
    assert all(record.outcome == "localized" for record in found.records)
    assert all(record.details["confirmed"]["broken"] for record in found.records)
    assert [record.details["final"]["broken"] for record in found.records] == [False, False]
    assert found.left() == found.records
