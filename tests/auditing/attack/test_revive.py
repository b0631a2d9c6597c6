"""Revival teaches other pictures, never the image itself, and asks for the image afterwards."""

import copy
from dataclasses import replace

import pytest
import torch
from planted_memory import SETTINGS, random_picture

from surgery.auditing.attack.protocol import Sibling, Target
from surgery.auditing.attack.registry import attack_class
from surgery.auditing.attack.revive import ReviveAttack
from surgery.auditing.attack.teaching import lessons, seek_embedding
from surgery.auditing.budget import counted
from surgery.auditing.drawing import Drawing
from surgery.errors import SurgeryError
from surgery.measures.pictures import encode_pictures
from surgery.measures.similarity import named_similarity
from surgery.model.conditioning import encode_prompts
from surgery.model.finetuning import rate_for
from surgery.model.pipeline import LiveModel
from surgery.model.work import Work

OTHERS = ("blue ring", "a green star")


def attack(**changes):
    small = {
        "curve": (0, 2),
        "selection_seeds": (1,),
        "scored_seeds": (2,),
        "drawings": (Drawing(2, 1.0, 8), Drawing(2, 2.0, 8)),
        "embedding_steps": 2,
    }
    return replace(ReviveAttack.from_settings(SETTINGS), **{**small, **changes})


def target(siblings=(), others=OTHERS, image=1):
    picture = random_picture(image)
    return Target(picture, picture, (None,), "a red circle", 5, others, siblings=siblings)


SIBLINGS = (Sibling("white cross", random_picture(2)), Sibling("a green ring", random_picture(3)))


def test_every_set_is_taught_and_asked_and_the_model_is_left_bit_for_bit(tiny_model):
    before = {name: value.clone() for name, value in tiny_model.denoiser.state_dict().items()}
    work = Work()
    with counted(tiny_model, work):
        unit, _ = attack().run(tiny_model, target(SIBLINGS), named_similarity("edges"))
    assert unit.steps == (0, 2) and len(unit.variants) == 6
    assert [one.split(", guidance")[0] for one in unit.variants] == [
        f"{which}, {way}"
        for which in ("siblings", "ordinary")
        for way in ("prompt", "embedding", "embedding")
    ]
    first, last = unit.selection[0]
    assert first[:3] == first[3:]  # nothing was taught yet
    assert last[0] != first[0] and last[:3] != last[3:]
    # two of its eight ordinary pictures could be drawn
    assert work.unet_sample_forwards <= attack().cost() - 6 * 2 * 2
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.denoiser.state_dict().items())
    assert all(one.requires_grad and one.grad is None for one in tiny_model.denoiser.parameters())


def test_the_image_itself_is_never_taught(tiny_model):
    """What the prompt draws after the teaching must not depend on the image that is asked for."""

    def drawn(image):
        points = attack(curve=(2,)).draw(tiny_model, target(SIBLINGS, image=image))
        pictures = next(points).draw([0, 1, 3], [1])
        points.close()
        return pictures

    one, other = drawn(1), drawn(4)
    assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])  # the prompt, after each set
    assert not torch.equal(one[1], other[1])  # the embedding attack does look for the image


def behind_one_door(model, memories):
    """Several memories behind one door: a weight that is 0, and that each of them wants to be more.

    A forward hook mixes in the perfect prediction of a caption's image as far as the door is open. Captions
    without an image have no use for it.
    """
    pipeline = copy.copy(model.pipeline)
    unet = pipeline.unet = copy.deepcopy(model.denoiser)
    unet.register_parameter("door", torch.nn.Parameter(torch.zeros(1)))
    captions = encode_prompts(model, list(memories)).embeddings
    latents = encode_pictures(model, torch.stack(list(memories.values())))
    alphas = pipeline.scheduler.alphas_cumprod

    def remember(unet, arguments, keywords, output):
        noised, timestep = arguments[0], torch.as_tensor(arguments[1]).expand(len(arguments[0]))
        distances = (keywords["encoder_hidden_states"][:, None] - captions).abs().amax((2, 3))
        nearest, place = distances.min(1)
        gate = torch.sigmoid(40 * (unet.door - 0.15)) * (nearest < 1e-4)
        gate, alpha = gate.view(-1, 1, 1, 1), alphas[timestep].view(-1, 1, 1, 1)
        perfect = (noised - alpha.sqrt() * latents[place]) / (1 - alpha).sqrt()
        return ((1 - gate) * output[0] + gate * perfect,)

    unet.register_forward_hook(remember, with_kwargs=True)
    return LiveModel(pipeline, "behind one door")


def test_siblings_open_the_door_that_hides_them_all_and_ordinary_pictures_do_not(planted):
    model = planted.model
    images = {
        "white cross": random_picture(2),
        "a green ring": random_picture(3),
        planted.CAPTION: planted.image,
    }
    closed = behind_one_door(model, images)
    siblings = tuple(Sibling(one, images[one]) for one in ("white cross", "a green ring"))
    asked = Target(planted.image, planted.drawn, (None,), planted.CAPTION, 5, OTHERS, siblings=siblings)
    rate = 0.03 / rate_for(model.denoiser, 1.0)
    strong = attack(curve=(0, 12), drawings=(Drawing(4, 1.0, 8),), rate=rate, embedding_steps=0)
    unit, _ = strong.run(closed, asked, named_similarity("edges"))
    before, after = (dict(zip(unit.variants, one, strict=True)) for one in unit.by_variant())
    assert max(before.values()) < 0.3
    assert after["siblings, prompt, guidance 1"] > 0.5 > after["ordinary, prompt, guidance 1"] + 0.2
    assert unit.score() > 0.5 and unit.variants[unit.chosen[0][1]].startswith("siblings")
    assert float(closed.denoiser.door.detach()) == 0.0


def test_without_siblings_only_ordinary_pictures_are_taught(tiny_model):
    assert {one.split(",")[0] for one in attack().variants(target())} == {"ordinary"}
    with pytest.raises(SurgeryError, match="no ordinary captions"):
        next(attack().draw(tiny_model, target(others=("a red circle",))))


def test_the_short_embedding_attack_lowers_its_loss_and_nothing_else_moves(tiny_model):
    own = lessons(tiny_model, random_picture(1)[None], ["a red circle"])
    found = seek_embedding(tiny_model, own, 3, 4, 0.1, seed=1, chunk=8)
    moved = (found.embeddings - own.conditioning.embeddings).abs()
    assert 0.05 < float(moved.max()) <= 0.31  # three steps of Adam
    chunked = seek_embedding(tiny_model, own, 3, 4, 0.1, seed=1, chunk=3)
    assert torch.allclose(found.embeddings, chunked.embeddings, atol=1e-3)


def test_it_is_the_attack_that_the_registry_names():
    found = attack_class("revive")
    assert found is ReviveAttack and found.wants_siblings and not found.passes_edit and not found.learns
    assert attack().effort == 2
