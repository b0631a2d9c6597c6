"""Every recipe that ships, against a checkpoint with its model's real tensor names and shapes.

The weight files are as large as the real ones and hold no byte (they are sparse): a dry run reads headers.
"""

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch

from surgery.applying.forecast import plan_recipe
from surgery.applying.recipe import FORMAT, read_recipe
from surgery.auditing.judgement.verdict import REMOVED
from surgery.checkpoint.inspect import inspect_checkpoint
from surgery.errors import UsageError

RECIPES = Path(__file__).parent.parent.parent / "recipes"
XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
PIXART = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "sample_size": 64,
    "attention_bias": True,
    "norm_type": "ada_norm_single",
}
SD1 = {"cross_attention_dim": 768}
UNET, CLIP = "UNet2DConditionModel", "CLIPTextModel"
PIXART_CLASSES = ("PixArtAlphaPipeline", "T5EncoderModel", "PixArtTransformer2DModel")
# recipe -> family, three classes, settings of the denoiser, value layers, weights in billions
MODELS = {
    "sd14": ("SD1", "StableDiffusionPipeline", CLIP, UNET, SD1, 16, 0.86),
    "sd15": ("SD1", "StableDiffusionPipeline", CLIP, UNET, SD1, 16, 0.86),
    "sd21-base": ("SD2", "StableDiffusionPipeline", CLIP, UNET, SD2, 16, 0.87),
    "sdxl-base": ("SDXL base", "StableDiffusionXLPipeline", CLIP, UNET, XL, 70, 2.57),
    "pixart": (
        "PixArt",
        "PixArtAlphaPipeline",
        "T5EncoderModel",
        "PixArtTransformer2DModel",
        PIXART,
        28,
        0.61,
    ),
}


def real_sized(folder: Path, pipeline: str, text_encoder: str, denoiser: str, settings: dict) -> Path:
    """A pipeline folder whose denoiser has the header of the real one, in float16."""
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, denoiser)(**settings)
    component = "unet" if denoiser.startswith("UNet") else "transformer"
    (folder / component).mkdir(parents=True)
    index = {"text_encoder": ["transformers", text_encoder], component: ["diffusers", denoiser]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))
    model.save_config(folder / component)
    header, position = {}, 0
    for name, tensor in model.state_dict().items():
        end = position + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with (folder / component / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    return folder


@pytest.fixture(scope="module", params=sorted(MODELS))
def family(request, tmp_path_factory):
    """(name of the recipe, a folder with the real tensor names and shapes, what is known of it)"""
    name, (_, *classes, settings, _, _) = request.param, MODELS[request.param]
    folder = tmp_path_factory.mktemp("real") / name
    yield name, real_sized(folder, *classes, settings), MODELS[name]
    shutil.rmtree(folder)


def test_there_is_one_for_each_family():
    assert {path.stem for path in RECIPES.glob("*.toml")} == {*MODELS, "testbed"}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_read_and_commented(path):
    text = path.read_text()
    assert text.startswith("# ") and f'format = "{FORMAT}"' in text
    assert f"surgery apply recipes/{path.name}" in text
    recipe = read_recipe(path)
    assert recipe.description and recipe.model.source
    assert (recipe.audit is not None) != recipe.audit_declined, "whether it is audited is decided"


def test_a_dry_run_of_the_testbed(tmp_path):
    plan = plan_recipe(RECIPES / "testbed.toml", tmp_path / "out")
    assert [step.name for step in plan.steps][:3] == ["calibrate", "localize", "patch"]
    assert plan.prompts == 17 and plan.audited and 5_000 < plan.forwards < 20_000
    assert not any(tmp_path.iterdir())


def test_a_dry_run_on_the_real_tensor_names(family, tmp_path):
    name, model, (called, _, _, _, _, layers, billions) = family
    shutil.copy(RECIPES / f"{name}.toml", tmp_path)
    (tmp_path / "captions.txt").write_text("one caption\nand another\n")
    (copy,) = inspect_checkpoint(model).copies
    assert inspect_checkpoint(model).family == called and len(copy.layers) == layers
    # the neurons that a recipe asks for by hand are those of its own comment
    recipe = tmp_path / f"{name}.toml"
    if by_hand := re.search(r"^#\s+(\{.*\})$", recipe.read_text(), re.M):
        neurons = json.loads(by_hand[1])
        assert set(neurons["layers"]) <= copy.layers.keys()
        (tmp_path / f"{name}-neurons.json").write_text(by_hand[1])
    asked = {"model": model, "prompts": tmp_path / "captions.txt"}
    plan = plan_recipe(recipe, tmp_path / "out", **asked)
    steps = {step.name: step for step in plan.steps}
    assert steps["patch"].bytes == pytest.approx(2e9 * billions, rel=0.02)
    assert called in steps["patch"].note
    if called == "PixArt":
        assert list(steps) == ["neurons", "patch", "diff", "card", "verify"] and plan.forwards == 0
        with pytest.raises(UsageError, match="only UNet2DConditionModel can be localized"):
            plan_recipe(
                RECIPES / "sd15.toml", tmp_path / "out", model=model, prompts=tmp_path / "captions.txt"
            )
    else:
        assert list(steps) == ["calibrate", "localize", "patch", "diff", "audit", "card", "verify"]
        assert REMOVED in steps["audit"].note, "an audit that cannot say `removed` can only shut the gate"
        assert steps["calibrate"].forwards > 0 and steps["audit"].forwards > 100_000
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.evidence").exists()
