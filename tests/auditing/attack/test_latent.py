"""The sampler through which gradients flow, and the noise that is sought on its sphere."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from planted_memory import random_picture

from surgery.auditing.attack.latent import LatentAttack, _Noises
from surgery.auditing.attack.noised_copies import frozen
from surgery.auditing.attack.sampler import sample
from surgery.auditing.budget import counted
from surgery.auditing.settings import AuditSettings
from surgery.errors import SurgeryError
from surgery.measures.pictures import encode_pictures
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import latents_of_seeds
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work


def with_scheduler(model, scheduler):
    pipeline = copy.copy(model.pipeline)
    pipeline.scheduler = scheduler
    return LiveModel(pipeline, "another scheduler")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_sampler_is_ddim_for_every_kind_of_prediction(tiny_model, kind):
    scheduler = DDIMScheduler.from_config(
        tiny_model.pipeline.scheduler.config,
        prediction_type=kind,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    model = with_scheduler(tiny_model, scheduler)
    conditioning = encode_prompts(model, ["a red circle", "blue ring"])
    noise = latents_of_seeds(model, [1, 2])
    with torch.no_grad():
        found = sample(model, noise, conditioning, 5)
        scheduler.set_timesteps(5)
        latents = noise
        for timestep in scheduler.timesteps:
            said = model.denoiser(latents, timestep, encoder_hidden_states=conditioning.embeddings).sample
            latents = scheduler.step(said, timestep, latents).prev_sample
    # "trailing" spreads the steps as ours, but for the rounding of timesteps
    assert torch.nn.functional.cosine_similarity(found.flatten(), latents.flatten(), 0) > 0.99
    assert float((found - latents).abs().mean() / latents.abs().mean()) < 0.1


def test_gradients_through_the_sampler_are_those_of_finite_differences(tiny_model):
    conditioning, noise = encode_prompts(tiny_model, ["a red circle"]), latents_of_seeds(tiny_model, [1])
    direction = torch.randn(noise.shape, generator=torch.Generator().manual_seed(2))
    wanted = noise.clone().requires_grad_(True)
    with frozen(tiny_model.denoiser):
        (gradient,) = torch.autograd.grad(sample(tiny_model, wanted, conditioning, 3).square().mean(), wanted)
        with torch.no_grad():
            up, down = (
                float(sample(tiny_model, noise + step * direction, conditioning, 3).square().mean())
                for step in (1e-2, -1e-2)
            )
    assert (up - down) / 2e-2 == pytest.approx(float((gradient * direction).sum()), rel=0.05)


def test_steps_that_are_kept_give_the_gradient_of_those_that_are_run_again(tiny_model):
    conditioning, noise = encode_prompts(tiny_model, ["a red circle"]), latents_of_seeds(tiny_model, [1])
    gradients, forwards = [], []
    for checkpointed in (True, False):
        wanted, work = noise.clone().requires_grad_(True), Work()
        with frozen(tiny_model.denoiser), counted(tiny_model, work):
            error = sample(tiny_model, wanted, conditioning, 3, checkpointed).square().mean()
            gradients += torch.autograd.grad(error, wanted)
        forwards.append(work.unet_sample_forwards)
    assert torch.equal(*gradients) and forwards == [6, 3]


def test_the_noise_keeps_its_norm_and_ends_closer_to_the_image(tiny_model):
    attack = LatentAttack.from_settings(AuditSettings(latent_curve=(0, 4)))
    clean = encode_pictures(tiny_model, random_picture(1)[None])[0]
    noises = _Noises(attack, tiny_model, clean, encode_prompts(tiny_model, ["", "a red circle", "blue ring"]))

    def distance(effort):
        noises.pictures(effort, [0], [5])
        with torch.no_grad():
            course = noises.courses[0, 5]
            ended = noises._sampled(course.noise.detach()[None], [course])
        return float((ended - clean).square().mean())

    before, begun = distance(0), latents_of_seeds(tiny_model, [5])[0]
    assert torch.equal(noises.courses[0, 5].noise.detach(), begun)
    assert distance(4) < before
    moved = noises.courses[0, 5].noise.detach()
    assert float(moved.norm()) == pytest.approx(float(begun.norm()), rel=1e-5)
    assert not torch.allclose(moved, begun, atol=0.05)


def test_models_without_a_noise_schedule_are_refused_by_name(tiny_model):
    model = with_scheduler(tiny_model, FlowMatchEulerDiscreteScheduler())
    noise, conditioning = latents_of_seeds(model, [1]), encode_prompts(model, ["a red circle"])
    with pytest.raises(SurgeryError, match="FlowMatchEulerDiscreteScheduler"):
        sample(model, noise, conditioning, 2)
    odd = copy.deepcopy(tiny_model.pipeline.scheduler)
    odd.register_to_config(prediction_type="score")
    with pytest.raises(SurgeryError, match="score"):
        sample(with_scheduler(tiny_model, odd), noise, conditioning, 2)
