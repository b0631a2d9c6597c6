"""SSCD, CLIP score, FID and KID behind their interfaces, with stand-ins made here."""

import pytest
import torch

from surgery.auditing.measures.quality import ClipScore, distances_to_reference
from surgery.auditing.measures.replication import measure
from surgery.auditing.measures.sscd import normalize, preprocess, sscd_similarity
from surgery.errors import UsageError


class Descriptor(torch.nn.Module):
    """A stand-in for SSCD: 4 x 4 mean colors, centered."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(pictures, 4).flatten(1)
        return pooled - pooled.mean(1, keepdim=True)


class Features(torch.nn.Module):
    """A stand-in for Inception: mean colors of uint8 pictures."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pictures.float() / 255, 2).flatten(1)


@pytest.fixture(scope="module")
def descriptor_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sscd") / "tiny.torchscript.pt"
    torch.jit.script(Descriptor()).save(str(path))
    return path


def random_pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_sscd_preprocessing_is_pinned():
    gray = torch.zeros(1, 3, 32, 64)
    resized = preprocess(gray)
    assert resized.shape == (1, 3, 288, 576) and float(resized.mean()) == pytest.approx(0.5)
    expected = [(0.5 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert normalize(resized)[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_sscd_is_the_cosine_of_descriptors(descriptor_file):
    similarity = sscd_similarity(descriptor_file)
    assert similarity.name == "sscd" and similarity.threshold == 0.7
    first, second = random_pictures(3, 3, 64, 64), random_pictures(3, 3, 64, 64, seed=1)
    describe = Descriptor()
    one, other = (describe(normalize(preprocess(pictures))) for pictures in (first, second))
    expected = torch.nn.functional.cosine_similarity(one, other)
    assert torch.allclose(similarity(first, second), expected, atol=1e-5)
    assert measure(first, first[0], similarity).similarities[0] == pytest.approx(1.0, abs=1e-5)


def test_sscd_sees_nothing_under_the_mask(descriptor_file):
    similarity = sscd_similarity(descriptor_file)
    first = random_pictures(1, 3, 64, 64)
    second = first.clone()
    second[..., :32, :] = random_pictures(1, 3, 32, 64, seed=5)
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[:32] = False
    assert similarity(first, second, mask).item() == pytest.approx(1.0, abs=1e-5)
    assert similarity(first, second).item() < 0.999


def test_sscd_describes_each_picture_once(descriptor_file, monkeypatch):
    from surgery.auditing.measures import sscd

    described = []
    original = sscd.preprocess
    monkeypatch.setattr(
        sscd, "preprocess", lambda pictures: described.append(len(pictures)) or original(pictures)
    )
    pictures = random_pictures(5, 3, 32, 32)
    first, second = torch.triu_indices(5, 5, offset=1)
    sscd_similarity(descriptor_file)(pictures[first], pictures[second])
    assert sum(described) == 5


def test_broken_descriptors_are_refused_in_one_line(tmp_path):
    (tmp_path / "junk.pt").write_bytes(b"junk")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    torch.jit.script(torch.nn.Flatten(0)).save(str(tmp_path / "flat.pt"))
    for name, cause in (
        ("absent.pt", "no such file"),
        ("junk.pt", "TorchScript"),
        ("junk.onnx", "ONNX|onnxruntime"),
        ("flat.pt", "not one vector"),
    ):
        with pytest.raises(UsageError, match=cause):
            sscd_similarity(tmp_path / name)


def test_onnx_descriptors_of_both_kinds_agree_with_torchscript(tmp_path, descriptor_file):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    # mean color of each quarter, as in the stand-in with 2 x 2: ONNX by hand, float input [n, 3, h, w]
    pool = helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[72, 72], strides=[72, 72])
    flat = helper.make_node("Flatten", ["pooled"], ["flat"])
    mean = helper.make_node("ReduceMean", ["flat", "axes"], ["mean"], keepdims=1)
    centered = helper.make_node("Sub", ["flat", "mean"], ["embedding"])
    axes = numpy_helper.from_array(torch.tensor([1]).numpy(), "axes")
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 288, 288])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 48])
    graph = helper.make_graph([pool, flat, mean, centered], "tiny", [entry], [out], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(tmp_path / "float.onnx"))
    first, second = random_pictures(2, 3, 64, 64), random_pictures(2, 3, 64, 64, seed=2)
    expected = sscd_similarity(descriptor_file)(first, second)
    assert torch.allclose(sscd_similarity(tmp_path / "float.onnx")(first, second), expected, atol=1e-4)


def test_clip_score_is_the_clamped_cosine(tmp_path):
    from PIL import Image
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from surgery.testbed import models

    tokenizer = models.build_tokenizer(tmp_path / "tokenizer")
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**text, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": 1},
        vision_config={**text, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "clip")
    score = ClipScore(tmp_path / "clip")
    pictures = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    mirrored = ClipScore(tmp_path / "clip")
    with torch.no_grad():
        mirrored.model.text_projection.weight.neg_()
    images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pictures]
    pixels = score.processor(images=images, return_tensors="pt")["pixel_values"]
    for prompt in ("a red circle", "blue ring"):
        with torch.no_grad():
            seen = score.model.get_image_features(pixels).pooler_output
            told = score.model.get_text_features(
                **score.tokenizer([prompt], return_tensors="pt")
            ).pooler_output
        cosine = torch.nn.functional.cosine_similarity(seen, told)
        assert score(prompt, pictures) == pytest.approx(float((100 * cosine).clamp_min(0).mean()), abs=1e-3)
        assert mirrored(prompt, pictures) == pytest.approx(
            float((-100 * cosine).clamp_min(0).mean()), abs=1e-3
        )
    (tmp_path / "empty").mkdir()
    for folder in ("absent", "empty"):
        with pytest.raises(UsageError):
            ClipScore(tmp_path / folder)


def test_fid_and_kid_tell_like_from_unlike(tmp_path):
    pytest.importorskip("torchmetrics")
    from PIL import Image

    torch.jit.script(Features()).save(str(tmp_path / "features.pt"))
    (tmp_path / "reference").mkdir()
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 120, (24, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for index, one in enumerate(real):
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(tmp_path / "reference" / f"{index}.png")
    like = torch.randint(0, 120, (24, 3, 32, 32), generator=generator, dtype=torch.uint8)
    unlike = torch.randint(100, 256, (24, 3, 32, 32), generator=generator, dtype=torch.uint8)
    found = distances_to_reference(
        tmp_path / "reference",
        tmp_path / "features.pt",
        {"like": [like], "unlike": [unlike[:9], unlike[9:]]},
        (32, 32),
    )
    assert found["like"]["fid"] < found["unlike"]["fid"] / 10
    assert found["like"]["kid"] < found["unlike"]["kid"]
    assert found["unlike"]["pictures"] == found["reference"]["pictures"] == 24
