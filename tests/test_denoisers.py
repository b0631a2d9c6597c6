"""The one table of denoisers: both wings judge by it, and it speaks of classes that exist."""

import pytest

from surgery import denoisers
from surgery.checkpoint.names.denoisers import check_configuration
from surgery.checkpoint.names.value_layers import value_name
from surgery.denoisers import DENOISERS, REFUSED_CLASSES, live_refusal
from surgery.errors import UsageError

UNET = "UNet2DConditionModel"


@pytest.mark.parametrize("name", sorted({*DENOISERS, *REFUSED_CLASSES} - {"StableCascadeUNet"}))
def test_every_class_of_the_table_is_one_of_diffusers(name):
    import diffusers

    assert hasattr(diffusers, name)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in REFUSED_CLASSES),
        ("SomethingElse", {}),
        (UNET, {"double_self_attention": True}),
        (UNET, {"dual_cross_attention": True}),
        (UNET, {"encoder_hid_dim_type": "ip_image_proj"}),
    ],
)
def test_both_wings_refuse_the_same_for_the_same_reason(name, settings):
    refusal = live_refusal(name, settings)
    assert refusal
    with pytest.raises(UsageError) as caught:
        check_configuration({"_class_name": name, **settings}, "unet/config.json")
    assert caught.value.cause == refusal


@pytest.mark.parametrize(
    ("name", "settings", "cause"),
    [
        ("PixArtTransformer2DModel", {}, "can be patched, but not localized"),
        (UNET, {"encoder_hid_dim_type": "text_proj"}, "projects its text again"),
        (UNET, {"addition_embed_type": "text_image"}, "more than the prompt"),
    ],
)
def test_what_can_be_patched_but_not_localized_says_so(name, settings, cause):
    assert cause in live_refusal(name, settings)
    check_configuration({"_class_name": name, **settings}, "config.json")


def test_a_new_family_is_one_entry(monkeypatch):
    """The width that its value layers may have, its name for people, what it is told: all from the entry."""
    added = denoisers.Denoiser("Newcomer", r"stages\.\d+\.", "text_width", {None: ()})
    monkeypatch.setattr(denoisers, "DENOISERS", {**DENOISERS, "NewTransformer": added})
    configuration = {"_class_name": "NewTransformer", "text_width": 12}
    check_configuration(configuration, "config.json")
    assert denoisers.text_widths("NewTransformer", configuration) == {12}
    assert denoisers.live_refusal("NewTransformer", configuration) is None
    assert "NewTransformer" in denoisers.localizable()


@pytest.mark.parametrize(
    "layer",
    [
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
        "transformer_blocks.3.attn2.to_v",
        "blocks.3.attn2.to_v",
        "layers.3.attn2.to_v",
    ],
)
def test_value_layers_of_every_family_are_known_by_name(layer):
    assert value_name(f"{layer}.weight").layer == layer
    assert value_name(f"{layer}.processor.weight") is None
