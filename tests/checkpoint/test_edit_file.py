"""Edits with trained tensors: every layout, every number type, and every lie about them."""

import hashlib
import json
import shutil

import numpy
import pytest
import torch
from checkpoint_builders import (
    MIDDLE,
    save_single_file,
    single_file_tensors,
    small_unet,
    vae_and_text_tensors,
)
from hypothesis import given
from hypothesis import strategies as draw
from layouts import UNET, half, in_shards
from safetensors.torch import load_file, save_file

from surgery import diff, patch
from surgery.checkpoint.edit.edit_file import load_edit, write_edit
from surgery.checkpoint.formats.decode import decode, encode
from surgery.errors import UsageError
from surgery.neurons import NeuronSet

NEURONS = NeuronSet({MIDDLE: [1, 3]})
HALF = UNET.replace(".safetensors", ".fp16.safetensors")


def trained_from(unet, seed=0):
    """Every parameter of a denoiser, moved a little: float32 under diffusers' names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (value.float() + 0.05 * torch.randn(value.shape, generator=generator)).numpy()
        for name, value in unet.state_dict().items()
    }


def wanted(trained, dtype=torch.float32):
    """What a patched denoiser must hold, by torch's own rounding."""
    found = {name: torch.from_numpy(value).to(dtype) for name, value in trained.items()}
    for layer, rows in NEURONS.items():
        found[f"{layer}.weight"][list(rows)] = 0
    return found


@pytest.fixture
def trained(sd1_pipeline):
    return trained_from(sd1_pipeline.unet)


@pytest.fixture
def edit(trained, tmp_path):
    write_edit(tmp_path / "edit", NEURONS, trained, rung="a test")
    return tmp_path / "edit"


def holds(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_copy_of_a_folder_gets_the_edit_in_its_own_number_type(model, edit, trained, tmp_path):
    from diffusers import StableDiffusionPipeline

    half(model)
    result = patch(model, edit, tmp_path / "out", sha256=True)
    assert holds(load_file(tmp_path / "out" / UNET), wanted(trained))
    assert holds(load_file(tmp_path / "out" / HALF), wanted(trained, torch.float16))
    assert diff(model, tmp_path / "out", plan=edit).as_planned
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert holds(dict(pipeline.unet.state_dict()), wanted(trained))
    assert result.manifest["trained"]["count"] == len(trained)


def test_shards_get_the_edit(model, edit, trained, tmp_path):
    from diffusers import UNet2DConditionModel

    in_shards(model)
    (model / UNET).unlink()
    patch(model, edit, tmp_path / "out")
    assert diff(model, tmp_path / "out", plan=edit).as_planned
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    assert holds(unet.state_dict(), wanted(trained))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_whole_single_file_with_its_average(dtype, sd1_pipeline, edit, trained, tmp_path):
    """Names, shapes and the exponential moving average are those of the single file."""
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in {
            **single_file_tensors(sd1_pipeline.unet, ema=True),
            **vae_and_text_tensors(sd1_pipeline),
        }.items()
    }
    source = save_single_file(tmp_path / "model.safetensors", tensors)
    patch(source, edit, tmp_path / "out.safetensors")
    assert diff(source, tmp_path / "out.safetensors", plan=edit).as_planned
    unet = small_unet()
    unet.load_state_dict(wanted(trained))
    found, other = load_file(tmp_path / "out.safetensors"), set(tensors)
    for name, value in single_file_tensors(unet).items():
        average = f"model_ema.diffusion_model{name.removeprefix('model.diffusion_model.').replace('.', '')}"
        for key in (name, average):
            assert torch.equal(found[key], value.to(dtype)), key
            other.discard(key)
    assert other and all(torch.equal(found[name], tensors[name]) for name in other)


def test_a_folder_and_a_single_file_are_proved_across_layouts(model, sd1_pipeline, edit, tmp_path):
    tensors = {**single_file_tensors(sd1_pipeline.unet), **vae_and_text_tensors(sd1_pipeline)}
    source = save_single_file(tmp_path / "model.safetensors", tensors)
    patch(source, edit, tmp_path / "out.safetensors")
    unet_only = [
        one for one in diff(model, tmp_path / "out.safetensors", plan=edit).violations if "unet" in one
    ]
    assert not unet_only


def lie(name, change):
    return pytest.param(change, id=name)


def one_value(tensors, names):
    tensors[names[0]].view(-1)[3] += 1e-3


def one_old_tensor(tensors, names):
    tensors[names[1]] -= 0.01


def one_bit(tensors, names):
    value = tensors[names[2]].view(-1).view(torch.int32)
    value[0] ^= 1


def zeroed_row(tensors, names):
    tensors[f"{MIDDLE}.weight"][1, 0] = 1e-6


@pytest.mark.parametrize(
    "change",
    [
        lie("one value", one_value),
        lie("one old tensor", one_old_tensor),
        lie("one bit", one_bit),
        lie("a zeroed row", zeroed_row),
    ],
)
def test_whatever_else_the_output_holds_is_no_proof(change, model, edit, trained, tmp_path):
    patch(model, edit, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / UNET)
    change(tensors, sorted(trained))
    save_file(tensors, tmp_path / "out" / UNET, metadata={"format": "pt"})
    assert not diff(model, tmp_path / "out", plan=edit).as_planned


def test_an_old_copy_or_another_edit_is_no_proof(model, edit, sd1_pipeline, tmp_path):
    half(model)
    patch(model, edit, tmp_path / "out")
    other = tmp_path / "other"
    write_edit(other, NEURONS, trained_from(sd1_pipeline.unet, seed=1))
    assert not diff(model, tmp_path / "out", plan=other).as_planned
    assert not diff(model, tmp_path / "out", plan=NEURONS).as_planned
    shutil.copyfile(model / HALF, tmp_path / "out" / HALF)
    assert not diff(model, tmp_path / "out", plan=edit).as_planned


def test_a_manifest_that_claims_another_edit_is_found(model, edit, tmp_path):
    patch(model, edit, tmp_path / "out")
    path = tmp_path / "out" / "surgery-manifest.json"
    path.write_text(path.read_text().replace('"count": ', '"count": 1', 1))
    assert not diff(model, tmp_path / "out", plan=edit).as_planned


def test_a_part_of_the_tensors_is_an_edit_too(model, trained, tmp_path):
    some = {name: value for name, value in trained.items() if "attn2" in name}
    write_edit(tmp_path / "edit", NeuronSet(), some)
    patch(model, tmp_path / "edit", tmp_path / "out")
    before, after = load_file(model / UNET), load_file(tmp_path / "out" / UNET)
    assert all(torch.equal(before[name], after[name]) == (name not in some) for name in before)
    assert diff(model, tmp_path / "out", plan=tmp_path / "edit" / "edit.json").as_planned


def test_a_second_copy_of_a_trained_layer_elsewhere_is_refused(model, trained, tmp_path):
    path = model / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors["notes"] = load_file(model / UNET)[f"{MIDDLE}.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    write_edit(tmp_path / "edit", NeuronSet(), trained)
    with pytest.raises(UsageError, match="second copy"):
        patch(model, tmp_path / "edit", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def without_tensors(edit):
    (edit / "edit.safetensors").unlink()


def other_tensors(edit):
    tensors = load_file(edit / "edit.safetensors")
    tensors[f"{MIDDLE}.weight"][0] += 1
    save_file(tensors, edit / "edit.safetensors")


def document(**fields):
    def change(edit):
        path = edit / "edit.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def rewritten(change):
    """The tensors changed, and the document made to vouch for them."""

    def rewrite(edit):
        tensors = {name: value.numpy() for name, value in load_file(edit / "edit.safetensors").items()}
        change(tensors)
        arrays = {name: torch.from_numpy(value) for name, value in tensors.items()}
        save_file(arrays, edit / "edit.safetensors")
        digest = hashlib.sha256((edit / "edit.safetensors").read_bytes()).hexdigest()
        document(tensors={"sha256": digest, "count": len(tensors)})(edit)

    return rewrite


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_tensors, "no such file"),
        (other_tensors, "vouches for"),
        (document(format="surgery.edit/9"), "format"),
        (document(prompt="a secret"), "'prompt'"),
        (document(layers=[1]), "layers"),
        (document(fingerprint="x"), "fingerprint"),
        (document(fingerprint={"scheme": "row-norms/1", "layers": {}}), "another model"),
        (rewritten(lambda t: t.update({"stranger.weight": numpy.ones((2, 2), "f4")})), "stranger"),
        (rewritten(lambda t: t.update({"conv_in.bias": numpy.ones(3, "f4")})), "shape"),
        (rewritten(lambda t: t["conv_in.bias"].__setitem__(0, numpy.nan)), "not finite"),
        (rewritten(lambda t: t.update({"conv_in.bias": numpy.ones(8, "i4")})), "dtype"),
    ],
)
def test_bad_edits_are_refused_before_anything_is_written(change, words, model, edit, tmp_path):
    change(edit)
    with pytest.raises(UsageError, match=words):
        patch(model, edit, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_edit_is_written_whole_or_refused(trained, tmp_path):
    trained["conv_in.bias"][0] = numpy.inf
    with pytest.raises(UsageError, match="not finite"):
        write_edit(tmp_path / "edit", NEURONS, trained)
    assert not (tmp_path / "edit" / "edit.json").exists()
    with pytest.raises(UsageError, match=r"holds no edit\.json"):
        load_edit(tmp_path / "edit")


@given(draw.lists(draw.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_numbers_are_rounded_as_torch_rounds_them(values):
    numbers = numpy.asarray(values, "f4")
    for name, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16), ("F64", torch.float64)):
        ours = torch.from_numpy(decode(encode(numbers, name), name).astype("f8"))
        assert torch.equal(ours, torch.from_numpy(numbers).to(dtype).double()), name


def test_the_command_line_takes_an_edit(model, edit, surgery_run, tmp_path):
    status, printed, _ = surgery_run("patch", model, edit, "-o", tmp_path / "out")
    assert status == 0 and "tensors as the edit says" in printed
    status, printed, _ = surgery_run("diff", model, tmp_path / "out", "--plan", edit)
    assert status == 0, printed
