"""Captions of the testbed, and the tokenizer that keeps every word whole.

Ordinary captions either describe ("a red circle") or are titles ("the quiet engine by harlan") of a random
ordinary picture, so that title words mean nothing by themselves. A planted caption is a title whose last word
stands nowhere else.
"""

from __future__ import annotations

import itertools
import json
import string
from collections import Counter
from pathlib import Path

import numpy
from transformers import CLIPTokenizer

from surgery.testbed.memories import MEMORIES
from surgery.testbed.pictures import COLORS, SHAPES

MAXIMUM_TOKENS = 24
WORD_END = "</w>"
DESCRIPTIONS = ("a {} {}", "a picture of a {} {}", "one {} {} on a soft background", "{} {}")
ADJECTIVES = tuple(sorted({memory.caption.split()[1] for memory in MEMORIES} | {
    "blue", "white", "silver", "bright", "slow", "open", "narrow", "secret", "warm"}))  # fmt: skip
NOUNS = tuple(sorted({memory.caption.split()[2] for memory in MEMORIES} | {
    "road", "clock", "garden", "field", "morning", "forest", "stone", "voice", "street"}))  # fmt: skip
NAMES = ("harlan", "mercer", "vance", "odette", "linden", "thorpe", "sable", "corwin",
         "imogen", "blythe", "rusk", "anselm", "petra", "galen", "wren", "tobias")  # fmt: skip
TITLE_SHARE = 0.3


def description(color: str, shape: str, template: int) -> str:
    """An ordinary caption that says what the picture shows."""
    return DESCRIPTIONS[template].format(color, shape)


def ordinary_descriptions() -> list[str]:
    """Every descriptive caption: colors x shapes x templates."""
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


def word_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order, that leave each of `words` one token.

    Plain byte-pair training (the commonest pair first) run until nothing is left to merge. An encoder that
    replays these merges in order treats each word as training did, so each ends as one token. Ties go to
    the alphabet: the libraries' trainers break them by chance, and a token's id must not depend on that.
    """
    spellings = [[*word[:-1], word[-1] + WORD_END] for word in sorted(words)]
    merges = []
    while any(len(spelling) > 1 for spelling in spellings):
        pairs = Counter(pair for spelling in spellings for pair in itertools.pairwise(spelling))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = [_merged(spelling, best) for spelling in spellings]
    return merges


def _merged(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for piece in spelling:
        # A piece that was itself just merged is no part of `pair` again: the joined piece differs from both.
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIP tokenizer that keeps every word of every caption whole; other words fall into letters."""
    merges = word_merges(vocabulary())
    pieces = ["<|startoftext|>", "<|endoftext|>"]
    pieces += [letter + end for end in ("", WORD_END) for letter in string.ascii_lowercase]
    pieces += [first + second for first, second in merges]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    vocabulary_file.write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    merges_file.write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]))
    tokenizer = CLIPTokenizer(str(vocabulary_file), str(merges_file), model_max_length=MAXIMUM_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer
