"""Loading a pipeline, and every broken source as the user's mistake."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from planted_model import caption

from surgery.errors import UsageError
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, generate_images, seeded_latents
from surgery.model.pipeline import load_pipeline


def test_a_loaded_pipeline_is_taken_as_it_is(planted):
    assert load_pipeline(planted) is planted
    assert load_pipeline(planted.pipeline).denoiser is planted.denoiser
    assert planted.latent_shape == (4, 16, 16)


def broken(folder, change):
    change(folder)
    return folder


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def other_pipeline(folder):
    index = json.loads((folder / "model_index.json").read_text())
    del index["unet"]
    index.update(_class_name="FluxPipeline", transformer=["diffusers", "FluxTransformer2DModel"])
    (folder / "model_index.json").write_text(json.dumps(index))


def lose_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.weight"]
    save_file(tensors, path)


UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (without("model_index.json"), "no model_index.json"),
        (overwrite("model_index.json", b"{nonsense"), "cannot be loaded"),
        (overwrite("model_index.json", b"[]"), "names no pipeline class"),
        (other_pipeline, "FluxPipeline without a UNet2DConditionModel"),
        (without(UNET), "cannot be loaded"),
        (overwrite(UNET, b"\x00" * 100), "cannot be loaded"),
        (overwrite("unet/config.json", b"{}"), "cannot be loaded|cannot be|has no|reads"),
        (lose_a_tensor, "conv_in"),
        (without("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"), "no vocabulary"),
    ],
)
def test_broken_folders_are_the_users_mistake(planted_folder, tmp_path, change, cause):
    folder = shutil.copytree(planted_folder, tmp_path / "model")
    with pytest.raises(UsageError, match=cause):
        load_pipeline(broken(folder, change), device="cpu")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"source": "no/such/folder/at/all"}, "no such file or folder"),
        ({"source": "someone/not-in-the-cache"}, "cannot be loaded"),
        ({"source": "README.md"}, "is no checkpoint"),
        ({"device": "abacus"}, "cannot be used here"),
        ({"device": "cuda:77"}, "cannot be used here"),
        ({"dtype": "int3"}, "is not known"),
    ],
)
def test_bad_arguments_are_the_users_mistake(planted_folder, arguments, cause, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(UsageError, match=cause):
        load_pipeline(**{"source": planted_folder, **arguments})


def test_a_pipeline_without_text_encoder_is_refused(planted_folder):
    pipeline = DiffusionPipeline.from_pretrained(planted_folder, text_encoder=None, safety_checker=None)
    with pytest.raises(UsageError, match="no text_encoder"):
        load_pipeline(pipeline)


def test_mixed_precision_keeps_float32_weights_and_computes_the_unet_alone_in_half(planted, planted_folder):
    mixed = load_pipeline(planted_folder, device="cpu", dtype="mixed-bfloat16")
    weights = {parameter.dtype for parameter in mixed.denoiser.parameters()}
    assert weights == {mixed.dtype} == {torch.float32}
    assert mixed.computes_in == torch.bfloat16
    assert planted.computes_in == torch.float32
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: output.dtype})
        )
        for name, module in mixed.denoiser.named_modules()
        if name.endswith("attn2.to_v")
    ]
    latents = seeded_latents(mixed, 0, 3)
    conditioning = encode_prompts(mixed, [caption("w")])
    rough = NoisePredictor(mixed).predict(latents, conditioning)
    for hook in hooks:
        hook.remove()
    assert set(seen.values()) == {torch.bfloat16}
    assert conditioning.embeddings.dtype == torch.float32
    exact = NoisePredictor(planted).predict(latents, conditioning)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()
    (picture,) = generate_images(mixed, [caption("w")], [0], inference_steps=2)
    assert picture.getextrema() != ((0, 0),) * 3  # not the black of numbers that are not finite


def test_an_unknown_dtype_names_those_there_are(planted_folder):
    with pytest.raises(UsageError, match="float16, bfloat16, mixed-float16, mixed-bfloat16"):
        load_pipeline(planted_folder, device="cpu", dtype="mixed")
