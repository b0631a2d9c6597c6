"""The live wing: value layers, ablation, noise predictions, replay; and what it refuses."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from planted_model import PLANTED, caption

from surgery.errors import SurgeryError, UsageError
from surgery.model.ablation import ablate
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import (
    NoisePredictor,
    generate_images,
    latents_of_seeds,
    noise_differences,
    seeded_latents,
)
from surgery.model.pipeline import load_pipeline
from surgery.model.replay import BlockRecorder
from surgery.model.value_layers import block_of, denoiser_fingerprint, value_layers
from surgery.neurons import NeuronSet

PUBLISHED = [
    *(f"down_blocks.{block}.attentions.{index}" for block in range(3) for index in range(2)),
    "mid_block.attentions.0",
]
SET = NeuronSet.from_pairs([*PLANTED["w"], *PLANTED["y"]])


@pytest.fixture(scope="module")
def prompt(planted):
    return encode_prompts(planted, [caption("w")])


def test_value_layers_come_in_the_order_of_the_signal(planted):
    layers = value_layers(planted.denoiser)
    assert list(layers) == [f"{place}.transformer_blocks.0.attn2.to_v" for place in PUBLISHED]
    everything = value_layers(planted.denoiser, ("up", "mid", "down"))
    assert list(everything)[:7] == list(layers)
    assert [block_of(layer) for layer in everything][7:] == [
        f"up_blocks.{i}" for i in (1, 2, 3) for _ in range(3)
    ]
    assert list(denoiser_fingerprint(planted.denoiser)["layers"]) == sorted(everything)


def small_unet(**changes):
    shape = {
        "sample_size": 8,
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 2,
    }
    return UNet2DConditionModel(**{**shape, **changes})


def fused():
    unet = small_unet()
    unet.fuse_qkv_projections()
    return unet


def replaced(module):
    unet = small_unet()
    unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_v = module
    return unet


def damaged():
    unet = small_unet()
    with torch.no_grad():
        unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_v.weight[1, 1] = float("nan")
    return unet


@pytest.mark.parametrize(
    ("build", "cause"),
    [
        (lambda: UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                             up_block_types=("UpBlock2D",), norm_num_groups=2), "not conditioned on text"),
        (lambda: small_unet(down_block_types=("DownBlock2D",), mid_block_type=None), "has no layer named"),
        (fused, "fused projections"),
        (lambda: replaced(torch.nn.Linear(16, 8, bias=False)), "reads 16 features"),
        (lambda: replaced(torch.nn.Sequential(torch.nn.Linear(32, 8))), "not a plain linear layer"),
        (damaged, "not finite"),
        (lambda: small_unet(encoder_hid_dim=32, encoder_hid_dim_type="text_proj"), "projects its text again"),
    ],
)  # fmt: skip
def test_denoisers_that_are_not_understood_are_refused_by_name(build, cause):
    with pytest.raises(UsageError, match=cause):
        value_layers(build())


@pytest.mark.parametrize("arguments", [{"blocks": ("sideways",)}, {"projection": "query"}])
def test_unknown_choices_are_refused(planted, arguments):
    with pytest.raises(UsageError, match="there is no"):
        value_layers(planted.denoiser, **arguments)


def test_ablation_gives_what_zeroed_rows_give_and_leaves_nothing_behind(planted, prompt):
    latents = seeded_latents(planted, 0, 2)
    predictor = NoisePredictor(planted)
    before = predictor.predict(latents, prompt)
    with ablate(planted.denoiser, SET):
        inside = predictor.predict(latents, prompt)
    assert torch.equal(predictor.predict(latents, prompt), before)
    assert torch.equal(predictor.predict(latents, prompt, SET), inside)
    weights = {layer: planted.denoiser.get_submodule(layer).weight for layer in SET}
    kept = {layer: weight.detach().clone() for layer, weight in weights.items()}
    with torch.no_grad():
        for layer, rows in SET.items():
            weights[layer][list(rows)] = 0
        zeroed = predictor.predict(latents, prompt)
        for layer, weight in weights.items():
            weight.copy_(kept[layer])
    assert torch.equal(zeroed, inside)
    assert not torch.equal(inside, before)


def test_ablated_outputs_are_exact_zeros_even_where_the_layer_gives_nan(planted):
    layer, rows = next(iter(SET.items()))
    module = planted.denoiser.get_submodule(layer)
    text = torch.full((1, 3, module.in_features), float("nan"))
    with ablate(planted.denoiser, NeuronSet({layer: rows})), torch.no_grad():
        output = module(text)
    zeros = output[..., list(rows)]
    assert (zeros == 0).all()
    assert not torch.signbit(zeros).any()


def test_the_scaling_factor_multiplies_instead(planted, prompt):
    latents = seeded_latents(planted, 0, 1)
    half = NoisePredictor(planted, factor=0.5).predict(latents, prompt, SET)
    whole = NoisePredictor(planted, factor=1.0).predict(latents, prompt, SET)
    plain = NoisePredictor(planted).predict(latents, prompt)
    assert torch.equal(whole, plain)
    assert not torch.equal(half, plain)


def test_hooks_leave_when_the_block_raises_and_a_layer_that_never_ran_is_an_error(planted):
    layer = next(iter(SET))
    with pytest.raises(RuntimeError, match="inside"), ablate(planted.denoiser, SET):
        raise RuntimeError("inside")
    with pytest.raises(SurgeryError, match="never ran"), ablate(planted.denoiser, SET):
        pass
    assert not planted.denoiser.get_submodule(layer)._forward_hooks


@pytest.mark.parametrize(
    ("neurons", "cause"),
    [
        (NeuronSet({"down_blocks.9.attn2.to_v": [0]}), "no such layer"),
        (NeuronSet({PLANTED["v"][0][0]: [8]}), "no row 8"),
        (NeuronSet({"conv_in": [0]}), "not a linear layer"),
    ],
)
def test_neurons_of_another_model_are_refused(planted, neurons, cause):
    with pytest.raises(UsageError, match=cause), ablate(planted.denoiser, neurons):
        pass


def test_every_call_and_sample_is_counted_and_memory_running_out_halves_the_batch(
    planted, prompt, monkeypatch
):
    latents = seeded_latents(planted, 0, 7)
    counted = NoisePredictor(planted, batch_size=3)
    expected = counted.predict(latents, prompt)
    assert (counted.work.unet_calls, counted.work.unet_sample_forwards) == (3, 7)
    guided = NoisePredictor(planted, guidance=2.0)
    guided.predict(latents, prompt)
    assert guided.work.unet_sample_forwards == 14

    original = type(planted.denoiser).forward

    def scarce(self, sample, *arguments, **named):
        if len(sample) > 2:
            raise torch.OutOfMemoryError("scarce")
        return original(self, sample, *arguments, **named)

    monkeypatch.setattr(type(planted.denoiser), "forward", scarce)
    careful = NoisePredictor(planted, batch_size=8)
    torch.testing.assert_close(careful.predict(latents, prompt), expected, rtol=1e-4, atol=1e-4)
    assert (careful.batch_size, careful.work.unet_sample_forwards) == (2, 7)

    def empty(self, sample, *arguments, **named):
        raise torch.OutOfMemoryError("nothing left")

    monkeypatch.setattr(type(planted.denoiser), "forward", empty)
    with pytest.raises(SurgeryError, match="single sample"):
        careful.predict(latents, prompt)


def test_guidance_moves_away_from_the_empty_prompt(planted, prompt):
    latents = seeded_latents(planted, 0, 2)
    conditional = NoisePredictor(planted).predict(latents, prompt)
    empty = NoisePredictor(planted).predict(latents, encode_prompts(planted, [""]))
    guided = NoisePredictor(planted, guidance=3.0).predict(latents, prompt)
    torch.testing.assert_close(guided, empty + 3 * (conditional - empty), rtol=1e-3, atol=1e-2)
    swapped = NoisePredictor(planted, guidance=3.0, swap_guidance=True).predict(latents, prompt)
    torch.testing.assert_close(swapped, conditional + 3 * (empty - conditional), rtol=1e-3, atol=1e-2)


def test_predictions_of_v_and_of_the_clean_sample_become_noise(planted, prompt, monkeypatch):
    latents = seeded_latents(planted, 0, 1)
    raw = NoisePredictor(planted).predict(latents, prompt)
    predictor = NoisePredictor(planted)
    signal = float(planted.pipeline.scheduler.alphas_cumprod[int(predictor.timestep)])
    expected = {
        "v_prediction": signal**0.5 * raw + (1 - signal) ** 0.5 * latents,
        "sample": (latents - signal**0.5 * raw) / (1 - signal) ** 0.5,
    }
    before = planted.pipeline.scheduler.config
    for kind, noise in expected.items():
        monkeypatch.setattr(
            planted.pipeline.scheduler, "_internal_dict", type(before)({**before, "prediction_type": kind})
        )
        torch.testing.assert_close(predictor.predict(latents, prompt), noise)


def test_the_timestep_is_the_second_of_the_scheduler(planted):
    planted.pipeline.scheduler.set_timesteps(50)
    assert int(NoisePredictor(planted).timestep) == int(planted.pipeline.scheduler.timesteps[1])
    assert int(NoisePredictor(planted, step_index=0).timestep) == int(planted.pipeline.scheduler.timesteps[0])
    assert int(NoisePredictor(planted, inference_steps=1).timestep) == 1


def test_noise_differences_are_scaled_per_sample_and_channel():
    latents = torch.randn(2, 3, 4, 4)
    scaled = noise_differences(latents * 3 + torch.arange(3.0).view(1, 3, 1, 1), latents)
    assert scaled.amin(dim=(-2, -1)).eq(0).all()
    assert scaled.amax(dim=(-2, -1)).eq(1).all()


def test_a_constant_noise_difference_scales_to_zeros_and_not_to_nan():
    whole = torch.randint(-4, 5, (2, 3, 4, 4)).float()  # whole numbers: every difference is exactly 1
    constant = noise_differences(whole + 1, whole)
    assert torch.equal(constant, torch.zeros_like(constant))


def test_the_same_seed_gives_the_same_latents_whatever_is_drawn_with_it(planted):
    assert torch.equal(seeded_latents(planted, 4, 3)[:2], seeded_latents(planted, 4, 2))
    assert torch.equal(latents_of_seeds(planted, [9, 4])[1:], latents_of_seeds(planted, [4]))
    before, alone = (
        generate_images(planted, [caption("v")] * len(seeds), seeds, inference_steps=2, guidance=1.0)
        for seeds in ([1, 2], [2])
    )
    difference = torch.tensor(list(before[1].tobytes()), dtype=torch.int16) - torch.tensor(
        list(alone[0].tobytes()), dtype=torch.int16
    )
    assert difference.abs().max() <= 1
    with pytest.raises(UsageError, match="1 for 2 prompts"):
        generate_images(planted, ["a", "b"], [1])


def test_replayed_blocks_change_nothing_but_the_time(planted, prompt):
    latents = seeded_latents(planted, 0, 4)
    predictor = NoisePredictor(planted)
    recorder = BlockRecorder(planted.denoiser)
    assert recorder.replay_for(SET, 0, 4) is None
    with recorder.recording(NeuronSet(), 4):
        predictor.predict(latents, prompt)
    for neurons, served in [
        (SET, 2),
        (NeuronSet.from_pairs(PLANTED["y"]), 4),
        (NeuronSet.from_pairs(PLANTED["v"]), 1),
    ]:
        replay = recorder.replay_for(neurons, 1, 3)
        assert len(replay.outputs) == served
        expected = predictor.predict(latents[1:3], prompt, neurons)
        found = predictor.predict(latents[1:3], prompt, neurons, replay)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert recorder.replay_for(NeuronSet.from_pairs(PLANTED["x"]), 0, 4) is None
    with recorder.recording(SET, 4):
        predictor.predict(latents[:2], prompt, SET)  # stopped early: must not be stored
    assert len(recorder.replay_for(SET, 0, 4).outputs) == 2


def test_half_precision_gives_the_same_latents_and_finite_noise(planted_folder, prompt):
    half = load_pipeline(planted_folder, device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    noise = NoisePredictor(half).predict(seeded_latents(half, 0, 1), encode_prompts(half, ["a b"]))
    assert noise.dtype == torch.float32
    assert torch.isfinite(noise).all()


def test_the_device_is_the_pipelines_own_and_without_accelerators_nothing_is_searched(planted, monkeypatch):
    assert planted.device == torch.device(planted.pipeline._execution_device)
    asked = property(lambda _pipeline: "cuda:3")
    monkeypatch.setattr(type(planted.pipeline), "_execution_device", asked)
    assert planted.device == torch.device("cpu")
    monkeypatch.setattr("surgery.model.pipeline._has_accelerator", lambda: True)
    assert planted.device == torch.device("cuda:3"), "offloaded: diffusers knows where its inputs go"
