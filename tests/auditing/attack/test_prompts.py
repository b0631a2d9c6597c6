"""The prompts that are tried: what they are, and that none is tried for nothing."""

import pytest
from planted_memory import random_picture

from surgery.auditing.attack.prompts import PROMPTS, WORDS_READ, PromptsAttack, prompts_for, telling_words
from surgery.auditing.attack.protocol import Target
from surgery.auditing.budget import counted
from surgery.auditing.settings import AuditSettings
from surgery.model.work import Work

IMAGE = random_picture(1)


def target(prompt, others=(), near=()):
    return Target(IMAGE, IMAGE, (None,), prompt, 1, others=others, near=near)


def test_the_prompts_of_a_caption():
    made = prompts_for(target("A tall Ship, by Brandt", others=("a tall tree",), near=("the ship of Doe",)))
    assert made == {
        "own caption": "A tall Ship, by Brandt",
        "a picture of the caption": "a picture of A tall Ship, by Brandt",
        "words without grammar": "tall Ship, Brandt",
        "own word 1 x 2": "Brandt Brandt",
        "own word 1 x 8": " ".join(["Brandt"] * 8),
        "a picture of own word 1": "a picture of a Brandt",
        "own word 2 x 2": "tall tall",
        "own word 2 x 8": " ".join(["tall"] * 8),
        "a picture of own word 2": "a picture of a tall",
        "own word 3 x 2": "Ship Ship",
        "own word 3 x 8": " ".join(["Ship"] * 8),
        "a picture of own word 3": "a picture of a Ship",
        "own word 4 x 2": "by by",
        "own word 4 x 8": " ".join(["by"] * 8),
        "a picture of own word 4": "a picture of a by",
        "dropped word 1": "A tall Ship, by",
        "dropped word 2": "A Ship, by Brandt",
        "dropped word 3": "A tall by Brandt",
        "dropped word 4": "A tall Ship, Brandt",
        "swapped words 1": "A Brandt Ship, by tall",
        "swapped words 2": "A tall by Ship, Brandt",
        "near 1": "the ship of Doe",
    }


def test_the_words_that_fewest_captions_hold_tell_most():
    words = ["the", "red", "boat", "of", "Larsen", "and", "a", "red", "star"]
    assert [words[place] for place in telling_words(words, ("a red star", "red boat"))] == [
        "Larsen", "boat", "star", "red", "the", "and", "of", "a",
    ]  # fmt: skip
    long = [f"word{number}" for number in range(100)]
    assert max(telling_words(long, ())) == WORDS_READ - 1


@pytest.mark.parametrize(
    "prompt", ["", "ship", "of the", "!!!", "ship ship ship ship", "word " * 300, "пейзаж с лодкой", "船"]
)
def test_any_caption_has_prompts_all_different_and_not_too_many(prompt):
    made = prompts_for(target(prompt, near=(*(f"caption {number}" for number in range(9)), prompt)))
    assert 1 <= len(made) <= PROMPTS
    assert len(set(made.values())) == len(made) and all(made.values())


def test_a_long_caption_has_as_many_prompts_as_the_attack_says():
    made = prompts_for(target("one two three of five six", near=("a", "b", "c", "d")))
    assert len(made) == PROMPTS == PromptsAttack.from_settings(AuditSettings()).effort


def test_prompts_that_the_encoder_reads_alike_are_drawn_once(tiny_model):
    window = tiny_model.pipeline.tokenizer.model_max_length
    caption = " ".join(["red"] * window + ["blue", "ring"])
    attack = PromptsAttack.from_settings(AuditSettings(steps=1, guidance=1.0))
    image = target(caption)
    names = attack.variants(image)
    cut = [names.index(name) for name in ("own caption", "swapped words 1") if name in names]
    cut.append(names.index("a picture of the caption"))
    work = Work()
    with counted(tiny_model, work):
        (point,) = attack.draw(tiny_model, image)
        drawn = point.draw([cut[0], cut[0], cut[-1]], (1, 2))
    assert work.unet_sample_forwards == 2 * 2
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
    dropped = names.index("dropped word 1")  # a word beyond the window, or one of many: the encoder sees none
    work = Work()
    with counted(tiny_model, work):
        both = point.draw([cut[0], dropped], (1,))
    assert work.unet_sample_forwards == 1 and both[0].equal(both[1])
