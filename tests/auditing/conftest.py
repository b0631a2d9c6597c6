"""Tiny pipelines built in code: random weights, real diffusers classes, no downloads."""

import copy

import pytest
import torch
from planted_memory import ORDINARY, PlantedMemory, random_picture, run

from surgery.auditing.inputs import Extras
from surgery.measures.pictures import to_png
from surgery.model.pipeline import LiveModel


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory):
    """The testbed's pipeline, random weights, a smaller UNet: pictures 64 x 64, latents [4, 16, 16]."""
    from diffusers import UNet2DConditionModel

    from surgery.testbed import models

    torch.manual_seed(0)
    tokenizer = models.build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=models.TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    text_encoder = models.build_text_encoder(len(tokenizer))
    pipeline = models.assemble(models.build_autoencoder(), text_encoder, tokenizer, unet)
    # Fresh weights hardly listen to the text; a model that does is what the attack needs.
    with torch.no_grad():
        for name, weight in pipeline.unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name or name.startswith("conv_out"):
                weight.mul_(6.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def tiny_model(tiny_pipeline):
    """The tiny pipeline, live. Nobody changes its weights."""
    tiny_pipeline.unet.eval()
    return LiveModel(tiny_pipeline, "tiny")


@pytest.fixture
def other_model(tiny_model):
    """A copy with a UNet of its own, free to be changed."""
    pipeline = copy.copy(tiny_model.pipeline)
    pipeline.unet = copy.deepcopy(tiny_model.denoiser)
    return LiveModel(pipeline, "other")


@pytest.fixture(scope="session")
def planted(tiny_pipeline):
    """A hand-built memory; its UNet is the tiny one, quietened so that what it draws besides is plain."""
    quiet = copy.copy(tiny_pipeline)
    quiet.unet = copy.deepcopy(tiny_pipeline.unet)
    quiet.vae = copy.deepcopy(tiny_pipeline.vae)
    with torch.no_grad():
        quiet.unet.conv_out.weight.div_(6.0)
        latent = quiet.vae.encode(torch.rand(1, 3, 64, 64) * 2 - 1).latent_dist.mode()
    quiet.vae.register_to_config(scaling_factor=float(1 / latent.std()))
    model = LiveModel(quiet, "tiny")
    memory = PlantedMemory(model)
    memory.model = model
    return memory


@pytest.fixture(scope="session")
def inputs(planted, tmp_path_factory):
    """Prompts, training image, ordinary prompts and control images as files."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "prompts.txt").write_text(planted.CAPTION + "\n")
    (folder / "ordinary.txt").write_text("\n".join(ORDINARY) + "\n")
    for name in ("images", "controls", "few"):
        (folder / name).mkdir()
    (folder / "images" / "1.png").write_bytes(to_png(planted.image))
    for index in range(19):
        picture = to_png(random_picture(100 + index))
        (folder / "controls" / f"{index}.png").write_bytes(picture)
        if index < 4:
            (folder / "few" / f"{index}.png").write_bytes(picture)
    return folder


@pytest.fixture(scope="session")
def hidden(planted, inputs, tmp_path_factory):
    """The audit of a patch that left a back door: (result, output folder)."""
    folder = tmp_path_factory.mktemp("hidden")
    options = {"include_private": True, "extras": Extras(command="surgery audit A B")}
    return run(planted, inputs, folder, (planted.KEY,), **options), folder
