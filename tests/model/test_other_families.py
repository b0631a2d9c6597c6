"""SDXL in miniature: two text encoders, added conditioning, several transformer blocks per attention."""

import planted_model
import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import load_pipeline
from surgery.model.value_layers import value_layers
from surgery.neurons import NeuronSet


@pytest.fixture(scope="module")
def xl(planted):
    """A random SDXL in miniature: no attention in the first block, two text encoders of width 32."""
    torch.manual_seed(1)
    tokenizer = planted.pipeline.tokenizer
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=planted_model.TOKENS,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=2,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        use_linear_projection=True,
    )
    return load_pipeline(
        StableDiffusionXLPipeline(
            vae=AutoencoderKL(block_out_channels=(4,), latent_channels=4, norm_num_groups=2),
            text_encoder=CLIPTextModel(text),
            text_encoder_2=CLIPTextModelWithProjection(text),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(),
        )
    )


def test_sdxl_is_conditioned_on_both_encoders_and_the_size(xl):
    conditioning = encode_prompts(xl, ["a b", "c"])
    assert conditioning.embeddings.shape == (2, planted_model.TOKENS, 64)
    assert conditioning.added["text_embeds"].shape == (2, 32)
    size = 8 * xl.pipeline.vae_scale_factor
    assert conditioning.added["time_ids"][0].tolist() == [size, size, 0, 0, size, size]
    assert list(value_layers(xl.denoiser)) == [
        f"{block}.attentions.0.transformer_blocks.{index}.attn2.to_v"
        for block in ("down_blocks.1", "mid_block")
        for index in (0, 1)
    ]


def test_sdxl_neurons_can_be_ablated_and_predictions_do_not_depend_on_the_batch(xl):
    conditioning, latents = encode_prompts(xl, ["a b"]), seeded_latents(xl, 0, 3)
    neurons = NeuronSet({"mid_block.attentions.0.transformer_blocks.1.attn2.to_v": [0, 3]})
    whole = NoisePredictor(xl).predict(latents, conditioning)
    parts = NoisePredictor(xl, batch_size=2).predict(latents, conditioning)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    ablated = NoisePredictor(xl).predict(latents, conditioning, neurons)
    assert not torch.equal(ablated, whole)
    guided = NoisePredictor(xl, guidance=2.0).predict(latents, conditioning)
    assert torch.isfinite(guided).all()


@pytest.mark.parametrize("name", ["embedding", "output", "prompts", "latent"])
def test_sdxl_can_be_attacked(xl, name):
    from surgery.auditing.attack.protocol import Target
    from surgery.auditing.attack.registry import attack_class
    from surgery.auditing.settings import AuditSettings

    settings = AuditSettings(
        steps=1,
        guidance=2.0,
        attack_guidance=(1.0,),
        attack_batch=2,
        restarts=2,
        curve=(1,),
        output_curve=(1,),
        latent_curve=(1,),
    )
    attack = attack_class(name).from_settings(settings)
    image = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    target = Target(image, image, (None,), "a c v e", 1, others=("b d",), near=("g h",))
    last = len(attack.variants(target)) - 1
    (point,) = attack.draw(xl, target)
    assert point.draw([0, last], (1, 2)).shape == (2, 2, 3, 8, 8)
