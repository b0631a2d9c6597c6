"""Sketches against the formula and against the pipeline's own sampler."""

import torch

from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import load_pipeline
from surgery.model.sketches import ShortSampler, first_sketches, own_guidance, sketch_timesteps
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth


def similar(first, second):
    return torch.nn.functional.cosine_similarity(first.flatten(1), second.flatten(1))


def test_the_timesteps_fall_from_the_noisy_end_in_equal_steps():
    assert sketch_timesteps(1000, 1) == [980]
    assert sketch_timesteps(1000, 4) == [980, 735, 490, 245]


def test_a_sketch_is_what_the_sampler_draws_and_costs_one_forward_a_step():
    model = load_pipeline(PLANTED_FOLDER, device="cpu")
    assert own_guidance(model) == 7.5
    caption = read_ground_truth(PLANTED_FOLDER)[0].caption
    latents, conditioning = seeded_latents(model, 3, 3), encode_prompts(model, [caption])
    predictor = NoisePredictor(model)
    drawn = model.pipeline(
        prompt=[caption] * 3,
        latents=latents,
        num_inference_steps=20,
        guidance_scale=1.0,
        output_type="latent",
    ).images
    sampler = ShortSampler(predictor, 6)
    sketched = sampler.draw(latents, conditioning)
    assert predictor.work.unet_sample_forwards == 18
    assert similar(sketched, drawn).min() > 0.9
    # One step: the clean latent that the noise prediction implies, up to the signal rate.
    one = first_sketches(predictor, latents, conditioning)
    signal = model.pipeline.scheduler.alphas_cumprod[int(predictor.timestep)]
    noise = predictor.predict(latents, conditioning)
    torch.testing.assert_close(one, latents - (1 - signal).sqrt() * noise)
    assert similar(one, drawn).min() > 0.5
    assert torch.equal(sampler.draw(latents, conditioning), sketched)
