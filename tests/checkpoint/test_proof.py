"""False proofs that were believed once, each with its cause named now; and honest ones that were not."""

from __future__ import annotations

import json
import re
import shutil

import numpy
import pytest
import torch
from checkpoint_builders import (
    DOWN,
    MIDDLE,
    save_single_file,
    single_file_tensors,
    small_unet,
    vae_and_text_tensors,
)
from safetensors.torch import load_file, save_file

import surgery
from surgery.checkpoint.comparison.tensors import distant_rows
from surgery.errors import UsageError

ROWS = {DOWN: [0, 31], MIDDLE: [3, 7, 8]}
KEY = f"{MIDDLE}.weight"
UNET = "unet/diffusion_pytorch_model.safetensors"
SINGLE_KEY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
EMA_KEY = "model_ema.diffusion_modelmiddle_block1transformer_blocks0attn2to_vweight"


def refused(a, b, sentence, **options):
    """The proof says no, and one of its sentences names the cause."""
    found = surgery.diff(a, b, plan=ROWS, **options)
    assert found.as_planned is False
    assert any(re.search(sentence, each) for each in found.violations), found.violations


def change(path, edit, **metadata):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt", **metadata})


@pytest.fixture
def single(tmp_path):
    """A single file with an EMA twin, and what patch makes of it."""
    source = save_single_file(tmp_path / "a.safetensors", single_file_tensors(small_unet(), ema=True))
    return source, surgery.patch(source, ROWS, tmp_path / "b.safetensors").output


@pytest.fixture
def folder(model, tmp_path):
    return model, surgery.patch(model, ROWS, tmp_path / "out").output


def test_the_ema_twin_of_a_single_file_still_holds_the_rows(single):
    source, patched = single
    original = load_file(source)[EMA_KEY]
    change(patched, lambda tensors: tensors.__setitem__(EMA_KEY, original))
    refused(source, patched, f"row 3 of {EMA_KEY} is not zero")


def test_the_ema_twin_of_a_root_file_beside_a_pipeline_still_holds_the_rows(model, tmp_path):
    save_single_file(model / "all.safetensors", single_file_tensors(small_unet(), ema=True))
    output = surgery.patch(model, ROWS, tmp_path / "out").output
    assert surgery.diff(model, output, plan=ROWS).as_planned
    original = load_file(model / "all.safetensors")[EMA_KEY]
    change(output / "all.safetensors", lambda tensors: tensors.__setitem__(EMA_KEY, original))
    refused(model, output, f"all.safetensors: row 3 of {EMA_KEY} is not zero")


@pytest.mark.parametrize("across", [False, True])
def test_both_namings_of_which_only_the_later_one_is_patched(single, tmp_path, across):
    source, patched = single
    original = load_file(source)[SINGLE_KEY]
    change(patched, lambda tensors: tensors.__setitem__(KEY, original))
    if across:  # a folder against it: there both names mean one tensor
        small_unet().save_pretrained(tmp_path / "folder")
        source = tmp_path / "folder"
    refused(source, patched, f"{KEY} was added|B adds .*(EMA|no diffusers name)")


@pytest.mark.parametrize("beside", ["top level", "ema_state_dict"])
def test_a_pickle_that_holds_more_than_one_set_of_weights(single, tmp_path, beside):
    source, patched = single
    originals, zeroed = load_file(source), load_file(patched)
    lie = tmp_path / "b.ckpt"
    more = originals if beside == "top level" else {"ema_state_dict": originals}
    torch.save({**more, "state_dict": zeroed}, lie)
    try:
        refused(source, lie, "a pickle, which patch never writes")
    except UsageError as error:  # whichever tensors a loader takes: it cannot be told
        assert "top level" in str(error)


def test_patch_refuses_a_pickle_of_which_it_cannot_be_told_what_a_loader_takes(tmp_path):
    tensors = single_file_tensors(small_unet())
    torch.save({**tensors, "state_dict": tensors}, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="at its top level"):
        surgery.patch(tmp_path / "a.ckpt", ROWS, tmp_path / "b.safetensors")


def test_files_without_weights_have_a_counterpart_across_layouts_too(sd1_pipeline, tmp_path):
    tensors = single_file_tensors(sd1_pipeline.unet) | vae_and_text_tensors(sd1_pipeline)
    source = save_single_file(tmp_path / "a.safetensors", tensors)
    sd1_pipeline.save_pretrained(tmp_path / "model")
    output = surgery.patch(tmp_path / "model", ROWS, tmp_path / "out").output
    # the single file knows nothing of schedulers and vocabularies: whatever they say, it is no proof
    refused(source, output, "scheduler/scheduler_config.json, which has no counterpart in A")


def test_words_in_a_header_that_the_source_does_not_say(folder, single):
    source, patched = folder
    change(patched / UNET, lambda tensors: None, caption="a bean eats a sandwich")
    refused(source, patched, "its metadata differs")
    source, patched = single
    content = patched.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[EMA_KEY]["caption"] = "a bean eats a sandwich"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    patched.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    refused(source, patched, "its header is not the source's")


def test_metadata_that_the_conversion_of_a_pickle_did_not_write(tmp_path):
    source = tmp_path / "a.ckpt"
    torch.save({"state_dict": single_file_tensors(small_unet())}, source)
    patched = surgery.patch(source, ROWS, tmp_path / "b.safetensors").output
    assert surgery.diff(source, patched, plan=ROWS).as_planned
    change(patched, lambda tensors: None, caption="a bean eats a sandwich")
    refused(source, patched, "its header is not the source's")


MANIFEST_LIES = {
    "a caption": lambda manifest: manifest.__setitem__("prompt", "a bean eats a sandwich"),
    "a caption inside": lambda manifest: manifest["source"].__setitem__("note", "a bean"),
    "a caption as a version": lambda manifest: manifest["versions"].__setitem__("surgery", "a bean eats"),
    "a caption as a library": lambda manifest: manifest["versions"].__setitem__("a bean", "1.0"),
    "other rows": lambda manifest: manifest["neurons"]["layers"][MIDDLE].append(9),
    "another hash": lambda manifest: manifest["files"][0].__setitem__("sha256", "0" * 64),
    "another count": lambda manifest: manifest["verified"].__setitem__("rows_zero", 99),
    "another source": lambda manifest: manifest["source"].__setitem__("name", "somebody/else"),
    "a fingerprint": lambda manifest: manifest["neurons"].__setitem__("fingerprint", "a bean"),
    "a file less": lambda manifest: manifest["files"].pop(),
}


@pytest.mark.parametrize("lie", MANIFEST_LIES)
@pytest.mark.parametrize("kind", ["folder", "single"])
def test_a_manifest_that_patch_did_not_write(lie, kind, request):
    source, patched = request.getfixturevalue(kind)
    path = patched / "surgery-manifest.json"
    if kind == "single":
        path = patched.with_name(patched.name + ".surgery-manifest.json")
    manifest = json.loads(path.read_text())
    MANIFEST_LIES[lie](manifest)
    path.write_text(json.dumps(manifest))
    refused(source, patched, r"surgery-manifest\.json")


def test_a_manifest_that_is_no_json_or_hides_words_in_its_spaces(folder):
    source, patched = folder
    path = patched / "surgery-manifest.json"
    text = path.read_text()
    path.write_text(text + " " * 40)
    refused(source, patched, "is not written as patch writes it")
    path.write_text("{")
    refused(source, patched, "cannot be read")


def test_infinity_is_near_nothing():
    data = [numpy.array([value], "<f4").tobytes() for value in (numpy.inf, 5.0, -numpy.inf)]
    assert distant_rows(data[0], data[1], ("F32", "F32"), 1, 0.5) == [0]
    assert distant_rows(data[0], data[2], ("F32", "F32"), 1, 0.5) == [0]
    assert distant_rows(data[0], data[0], ("F32", "F32"), 1, 0.5) == []


def test_a_tolerance_that_proves_nothing_is_refused(folder):
    source, patched = folder
    change(patched / UNET, lambda tensors: tensors["conv_in.weight"].mul_(1.5))
    with pytest.raises(UsageError, match="1 proves nothing"):
        surgery.diff(source, patched, plan=ROWS, tolerance=1.0)
    refused(source, patched, "conv_in.weight differs", tolerance=0.005)


def test_a_fingerprint_of_no_layer_matches_nothing(model, tmp_path):
    neurons = tmp_path / "neurons.json"
    fingerprint = {"scheme": "row-norms/1", "layers": {}}
    neurons.write_text(
        json.dumps({"format": "surgery.neurons/1", "layers": ROWS, "fingerprint": fingerprint})
    )
    with pytest.raises(UsageError, match="names no layer"):
        surgery.patch(model, neurons, tmp_path / "out")


def second_copies(rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """A layer [r, c] in every arrangement that the search promises to find."""
    count, width = rows.shape
    generator = torch.Generator().manual_seed(5)
    other = torch.randn(7, width, generator=generator)
    beside = torch.randn(count, 5, generator=generator)
    return {
        "stacked": torch.stack([torch.randn(count, width, generator=generator), rows]),
        "with a dimension more": rows[None],
        "below another of other height": torch.cat([other, rows]),
        "between others": torch.cat([other, rows, other[:2]]),
        "left of another": torch.cat([rows, beside], 1),
        "right of another": torch.cat([beside, rows], 1),
        "flattened": rows.flatten(),
        "transposed": rows.T,
        "transposed, joined": torch.cat([rows.T, torch.randn(width, 9, generator=generator)], 1),
        "transposed, below another": torch.cat([torch.randn(3, count, generator=generator), rows.T]),
        "transposed, stacked": torch.stack([rows.T, rows.T]),
        "as a convolution": rows[:, :, None, None],
        "in another order": rows[torch.randperm(count, generator=generator)],
        "slightly scaled": rows * 1.001,
        "scaled": rows * -3,
        "in half precision": rows.half(),
        "in bfloat16": rows.bfloat16(),
    }


ARRANGEMENTS = list(second_copies(torch.randn(64, 24)))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(
    ("file", "name"),
    [
        (UNET, "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"),  # of another attention
        ("vae/diffusion_pytorch_model.safetensors", "a.backup"),
    ],
)
def test_second_copies_are_found_whatever_the_shape_around_them(model, tmp_path, arrangement, file, name):
    copy = second_copies(load_file(model / UNET)[KEY])[arrangement]
    change(model / file, lambda tensors: tensors.__setitem__(name, copy.contiguous()))
    with pytest.raises(UsageError, match=f"{name} holds a second copy of row . of {MIDDLE}"):
        surgery.patch(model, ROWS, tmp_path / "out")


def test_honest_weights_are_never_taken_for_second_copies(tmp_path):
    """Five families with other random numbers: every row is sought in every other tensor."""
    for seed in range(5):
        torch.manual_seed(100 + seed)
        unet = small_unet()
        for parameter in unet.parameters():
            torch.nn.init.normal_(parameter)
        unet.save_pretrained(tmp_path / str(seed))
        layers = {key.removesuffix(".weight"): [0, 1] for key in unet.state_dict() if "attn2.to_v" in key}
        output = surgery.patch(tmp_path / str(seed), layers, tmp_path / f"{seed}-out").output
        assert surgery.diff(tmp_path / str(seed), output, plan=layers).as_planned


# the other way: an honest patch passes its own proof


def test_a_root_file_that_patch_leaves_out_may_be_missing(model, tmp_path):
    eighth = {
        key: value.to(torch.float8_e4m3fn) if value.ndim > 1 else value
        for key, value in single_file_tensors(small_unet()).items()
    }
    save_file(eighth, model / "fp8.safetensors")
    result = surgery.patch(model, ROWS, tmp_path / "out")
    assert [file.path for file in result.left_out] == ["fp8.safetensors"]
    assert surgery.diff(model, result.output, plan=ROWS).as_planned
    shutil.copy(model / "fp8.safetensors", result.output)
    refused(model, result.output, "fp8.safetensors")


def test_a_component_folder_and_its_own_single_file_are_paired(tmp_path):
    unet = small_unet()
    unet.save_pretrained(tmp_path / "folder")
    tensors = single_file_tensors(unet)
    source = save_single_file(tmp_path / "a.safetensors", tensors)
    patched = surgery.patch(source, ROWS, tmp_path / "b.safetensors").output
    found = surgery.diff(tmp_path / "folder", patched, plan=ROWS)
    assert found.as_planned, found.violations
    change(patched, lambda tensors: tensors[SINGLE_KEY][3].fill_(0.5))
    refused(tmp_path / "folder", patched, "row 3 of .* is not zero")


def test_kept_files_belong_to_the_proof(model, tmp_path):
    (model / "README.md").write_text("a card\n")
    output = surgery.patch(model, ROWS, tmp_path / "out", keep=["README.md"]).output
    assert surgery.diff(model, output, plan=ROWS).as_planned
    (output / "README.md").write_text("another card\n")
    refused(model, output, "README.md")


def test_neurons_of_one_memory_that_point_the_same_way_are_no_second_copy(model, tmp_path):
    """A value layer of another place is the model itself: the plan knows it, and may name its rows."""

    def align(tensors):
        tensors[f"{DOWN}.weight"][5] = tensors[KEY][3] * 2

    change(model / UNET, align)
    output = surgery.patch(model, ROWS, tmp_path / "out").output
    assert surgery.diff(model, output, plan=ROWS).as_planned
