"""Constants behind cross-attention: where they are added, to which samples, and that nothing is left."""

import pytest
import torch
from planted_memory import random_picture

from surgery.auditing.attack.conditioned import predicted
from surgery.auditing.attack.output import OutputAttack, prompts_underneath
from surgery.auditing.attack.protocol import Target
from surgery.auditing.settings import AuditSettings
from surgery.errors import SurgeryError, UsageError
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import latents_of_seeds
from surgery.model.injection import injected, text_attentions

IMAGE = random_picture(1)


def test_every_text_cross_attention_gets_a_constant_of_its_outputs_width():
    from surgery.testbed.models import build_unet

    widths = text_attentions(build_unet())
    assert len(widths) == 16 and sum(widths.values()) == 864
    assert all(name.endswith(".attn2") for name in widths)
    with pytest.raises(UsageError, match="attn2"):
        text_attentions(torch.nn.Linear(2, 2))


def test_a_constant_is_added_to_its_own_sample_and_under_guidance_to_the_conditional_half(tiny_model):
    conditioning = encode_prompts(tiny_model, ["a red circle", "a red circle"])
    latents, timesteps = latents_of_seeds(tiny_model, [1]).repeat(2, 1, 1, 1), torch.tensor([500, 500])
    plain = predicted(tiny_model, latents, timesteps, conditioning)
    layers = text_attentions(tiny_model.denoiser).items()
    one = {name: torch.ones(1, width) for name, width in layers}
    pair = {name: torch.stack([torch.zeros(width), torch.ones(width)]) for name, width in layers}
    with injected(tiny_model.denoiser, pair):
        each = predicted(tiny_model, latents, timesteps, conditioning)
    with injected(tiny_model.denoiser, one):
        guided = predicted(tiny_model, latents, timesteps, conditioning)
    assert torch.allclose(each[0], plain[0], atol=1e-5) and not torch.allclose(each[1], plain[1], atol=1e-3)
    assert torch.allclose(guided, each, atol=1e-5)
    assert torch.equal(predicted(tiny_model, latents, timesteps, conditioning), plain)


def test_injecting_where_nothing_runs_or_the_numbers_do_not_fit_is_an_error(tiny_model):
    (name, width), *_ = text_attentions(tiny_model.denoiser).items()
    with (
        pytest.raises(SurgeryError, match="never ran"),
        injected(tiny_model.denoiser, {name: torch.ones(1, width)}),
    ):
        pass
    with (
        pytest.raises(UsageError, match="no such layer"),
        injected(tiny_model.denoiser, {"there": torch.ones(1, 2)}),
    ):
        pass
    conditioning = encode_prompts(tiny_model, ["a red circle"])
    with (
        pytest.raises(SurgeryError, match="1 samples, with 3 constants"),
        injected(tiny_model.denoiser, {name: torch.ones(3, width)}),
    ):
        predicted(tiny_model, latents_of_seeds(tiny_model, [1]), torch.tensor([5]), conditioning)
    assert not any(module._forward_hooks for module in tiny_model.denoiser.modules())


def test_underneath_lie_the_empty_prompt_and_another_caption(tiny_model):
    attack = OutputAttack.from_settings(AuditSettings())
    target = Target(IMAGE, IMAGE, (None,), "a red circle", 1, others=("a red circle", "blue ring"))
    empty, ring = encode_prompts(tiny_model, ["", "blue ring"]).embeddings
    found = prompts_underneath(tiny_model, target, attack.starts).embeddings
    assert torch.equal(found[0], empty) and torch.equal(found[1], ring)
