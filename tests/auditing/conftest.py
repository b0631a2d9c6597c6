"""Tiny pipelines built in code: random weights, real diffusers classes, no downloads."""

import copy

import pytest
import torch

from surgery.model.pipeline import LiveModel


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory):
    """The testbed's pipeline with random weights: pictures 64 x 64, latents [4, 16, 16]."""
    from surgery.testbed import models

    torch.manual_seed(0)
    tokenizer = models.build_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    pipeline = models.assemble(
        models.build_autoencoder(), models.build_text_encoder(len(tokenizer)), tokenizer, models.build_unet()
    )
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
