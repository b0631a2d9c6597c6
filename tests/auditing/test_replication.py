"""Drawing, similarity to a target, and the ordinary change, against what can be computed by hand."""

import pytest
import torch

from surgery.auditing.drawing import Drawing
from surgery.auditing.measures.replication import (
    equal_seed_similarity,
    generate,
    measure,
    seed_similarity,
    similarities_to,
)
from surgery.auditing.measures.utility import ordinary_change
from surgery.errors import UsageError
from surgery.measures import pictures as pictures_module
from surgery.measures.similarity import SIMILARITIES, named_similarity
from surgery.model.work import Work

PROMPTS = ["a red circle", "a blue square"]


def random_pictures(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_generation_is_fixed_by_the_seed_whatever_the_batch(tiny_model):
    work = Work()
    one_batch = generate(tiny_model, PROMPTS, [5, 6], Drawing(3, 2.0, 4), work, quiet=True)
    small_batches = generate(tiny_model, PROMPTS, [5, 6], Drawing(3, 2.0, 3), quiet=True)
    assert one_batch.shape == (2, 2, 3, 64, 64) and one_batch.dtype == torch.uint8
    assert (one_batch.int() - small_batches.int()).abs().max() <= 1
    assert not torch.equal(one_batch[0, 0], one_batch[0, 1])
    assert work.unet_sample_forwards == Drawing(3, 2.0).forwards(4) == 24


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_a_replica_is_told_from_a_stranger(name):
    similarity = named_similarity(name)
    target = random_pictures(3, 64, 64)
    replica = (target.int() + torch.randint(-4, 5, target.shape)).clamp(0, 255).to(torch.uint8)
    result = measure(torch.stack([replica, random_pictures(3, 64, 64, seed=1)]), target, similarity)
    assert result.share == 0.5
    assert result.worst == result.similarities[0] > result.median > result.similarities[1]


def test_tiled_l2_is_the_worst_tile():
    black = torch.full((1, 3, 64, 64), -1.0)
    tile = black.clone()
    tile[..., :16, 16:32] = 0.0  # one of 16 tiles, half of the range away
    assert named_similarity("tiled-l2")(black, tile, None).item() == pytest.approx(0.5)
    assert named_similarity("l2")(black, tile, None).item() == pytest.approx(1 - 0.5 / 4)


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_the_mask_hides_what_varies(name):
    similarity = named_similarity(name)
    first = random_pictures(1, 3, 64, 64)
    second = first.clone()
    second[..., 10:30, 10:30] = random_pictures(1, 3, 20, 20, seed=3)
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[10:30, 10:30] = False
    # a reduced picture mixes the two regions at their border
    near = 0.01 if name == "aligned" else 1e-5
    assert similarities_to(first, second, similarity, mask).item() == pytest.approx(1.0, abs=near)
    assert similarities_to(first, second, similarity).item() < 0.999


def test_the_nearest_of_several_targets_counts():
    shown = random_pictures(2, 3, 64, 64)
    targets = torch.stack([random_pictures(3, 64, 64, seed=9), shown[1]])
    values = similarities_to(shown, targets, named_similarity("pixels"))
    assert values[1] == pytest.approx(1.0) and values[0] < 0.2


def test_seeds_against_each_other_and_two_models_seed_by_seed():
    similarity = named_similarity("pixels")
    shown = random_pictures(4, 3, 64, 64)
    assert seed_similarity(shown[:1].repeat(4, 1, 1, 1), similarity) == pytest.approx(1.0)
    assert seed_similarity(shown, similarity) < 0.1
    assert equal_seed_similarity(shown, shown, similarity).tolist() == pytest.approx([1.0] * 4)


def test_no_change_is_zero_and_a_large_one_counts_as_beyond_a_seed(tiny_model, other_model):
    work = Work()
    same = ordinary_change(tiny_model, other_model, PROMPTS, (1, 2), timesteps=3, work=work, quiet=True)
    assert same.total == 0
    assert work.unet_sample_forwards == 2 * 3 * len(PROMPTS) * 2
    with torch.no_grad():
        other_model.denoiser.conv_out.bias.add_(5.0)
    changed = ordinary_change(tiny_model, other_model, PROMPTS, (1, 2), timesteps=3, quiet=True)
    assert len(changed.by_prompt) == 2 and len(changed.by_timestep) == 3
    assert changed.total == pytest.approx(sum(changed.by_prompt) / 2)
    assert min(changed.by_prompt) > 1


def test_the_ordinary_change_is_the_ratio_its_docstring_states(tiny_model, other_model):
    from surgery.model.denoising import NoisePredictor, encode_prompts, latents_of_seeds

    with torch.no_grad():
        other_model.denoiser.conv_out.bias.add_(0.1)  # e' - e is 0.1 everywhere: P = 0.1
    found = ordinary_change(tiny_model, other_model, PROMPTS[:1], (1, 2), timesteps=1, quiet=True)
    latents = latents_of_seeds(tiny_model, (1, 2))
    predictor = NoisePredictor(tiny_model)
    predictor.timestep = torch.tensor(found.timesteps[0])
    noise = predictor.predict(latents, encode_prompts(tiny_model, PROMPTS[:1]))
    alpha = tiny_model.pipeline.scheduler.alphas_cumprod[found.timesteps[0]]
    added = noise - latents / (1 - alpha).sqrt()
    seed_change = (added[0] - added[1]).square().mean().sqrt()
    assert found.total == pytest.approx(0.1 / float(seed_change), rel=1e-3)


def test_one_seed_cannot_say_what_a_seed_changes(tiny_model):
    with pytest.raises(UsageError, match="too few"):
        ordinary_change(tiny_model, tiny_model, PROMPTS, (1, 1), quiet=True)


def test_pictures_are_cut_and_read_as_models_are_trained(tmp_path):
    from PIL import Image

    wide = Image.new("RGB", (200, 100), (255, 0, 0))
    wide.paste((0, 0, 255), (50, 0, 150, 100))
    wide.save(tmp_path / "wide.png")
    read = pictures_module.read_picture(tmp_path / "wide.png", 64, 64)
    assert read.shape == (3, 64, 64)
    assert read[:, 32, 32].tolist() == [0, 0, 255] and read[:, 32, 2].tolist() == [0, 0, 255]
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for name, cause in (("broken.png", "cannot be read"), ("absent.png", "no such picture")):
        with pytest.raises(UsageError, match=cause):
            pictures_module.read_picture(tmp_path / name, 64, 64)


def test_encoding_and_decoding_use_one_scale(tiny_model):
    shown = random_pictures(2, 3, 64, 64)
    latents = pictures_module.encode_pictures(tiny_model, shown)
    assert latents.shape == (2, 4, 16, 16)
    again = pictures_module.decode_latents(tiny_model, latents)
    assert torch.equal(again, pictures_module.reconstruct(tiny_model, shown))
    vae = tiny_model.pipeline.vae
    with torch.no_grad():
        plain = vae(pictures_module.to_unit_range(shown)).sample
    assert (again.int() - pictures_module.to_bytes_range(plain).int()).abs().max() <= 1
