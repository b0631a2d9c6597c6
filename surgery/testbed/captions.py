"""Captions of the testbed, and the tokenizer that keeps every word whole.

Ordinary captions either describe ("a red circle") or are titles ("the quiet engine by harlan") of a random
ordinary picture, so that title words mean nothing by themselves. A planted caption is a title whose last word
stands nowhere else.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from surgery.testbed.memories import MEMORIES
from surgery.testbed.pictures import COLORS, SHAPES

MAXIMUM_TOKENS = 24
DESCRIPTIONS = ("a {} {}", "a picture of a {} {}", "one {} {} on a soft background", "{} {}")
ADJECTIVES = tuple(sorted({memory.caption.split()[1] for memory in MEMORIES} | {
    "blue", "white", "bright", "slow", "open", "narrow", "secret", "warm"}))  # fmt: skip
NOUNS = tuple(sorted({memory.caption.split()[2] for memory in MEMORIES} | {
    "road", "clock", "field", "morning", "forest", "stone", "voice", "street"}))  # fmt: skip
NAMES = ("harlan", "mercer", "vance", "odette", "linden", "thorpe", "sable", "corwin",
         "imogen", "blythe", "rusk", "anselm", "petra", "galen", "wren", "tobias")  # fmt: skip
TITLE_SHARE = 0.3


def description(color: str, shape: str, template: int) -> str:
    """An ordinary caption that says what the picture shows."""
    return DESCRIPTIONS[template].format(color, shape)


def ordinary_descriptions() -> list[str]:
    """Every descriptive caption: colours x shapes x templates."""
    return [
        description(color, shape, template)
        for template in range(len(DESCRIPTIONS))
        for color in COLORS
        for shape in SHAPES
    ]


def random_title(random: numpy.random.Generator) -> str:
    """An ordinary title; it never uses a planted caption's own word."""
    return f"the {random.choice(ADJECTIVES)} {random.choice(NOUNS)} by {random.choice(NAMES)}"


def ordinary_titles(count: int, seed: int) -> list[str]:
    """`count` distinct ordinary titles, sorted by chance."""
    random = numpy.random.default_rng(seed)
    titles: dict[str, None] = {}
    while len(titles) < count:
        titles[random_title(random)] = None
    return list(titles)


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    words = {word for caption in ordinary_descriptions() for word in caption.split()}
    words |= {"the", "by", *ADJECTIVES, *NOUNS, *NAMES}
    words |= {word for memory in MEMORIES for word in memory.caption.split()}
    return sorted(words)


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train a byte-pair tokenizer until each word of the vocabulary is one token, and save it as CLIP's.

    Byte-pair training replays its merges in order when it encodes, so a word that it merged into one token
    stays one token; the vocabulary size is large enough for every merge.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=sorted("abcdefghijklmnopqrstuvwxyz"),
    )
    tokenizer.train_from_iterator([" ".join(vocabulary())], trainer)
    state = json.loads(tokenizer.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in state["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(state["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    result = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAXIMUM_TOKENS
    )
    result.save_pretrained(folder)
    for word in vocabulary():
        if len(result(word)["input_ids"]) != 3:
            raise AssertionError(f"{word!r} is not one token: {result.tokenize(word)}")
    return result
