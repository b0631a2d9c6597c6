"""The testbed's captions and tokenizer."""

from transformers import CLIPTokenizer

from surgery.testbed.captions import ordinary_descriptions, ordinary_titles, vocabulary, write_tokenizer
from surgery.testbed.memories import MEMORIES


def test_every_word_is_one_token_and_ids_are_the_same_each_time(tmp_path):
    first = write_tokenizer(tmp_path / "first")
    write_tokenizer(tmp_path / "second")
    assert (tmp_path / "first/vocab.json").read_bytes() == (tmp_path / "second/vocab.json").read_bytes()
    reloaded = CLIPTokenizer.from_pretrained(tmp_path / "second")
    ids = set()
    for word in vocabulary():
        start, token, end = reloaded(word)["input_ids"]
        assert (start, end) == (0, 1)
        assert first(word)["input_ids"] == [start, token, end]
        ids.add(token)
    assert len(ids) == len(vocabulary())


def test_an_unknown_word_falls_into_known_pieces(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer("zzqx")["input_ids"][1:-1]).replace(" ", "") == "zzqx"


def test_no_ordinary_caption_uses_a_planted_word():
    own_words = {memory.own_word for memory in MEMORIES}
    for caption in [*ordinary_descriptions(), *ordinary_titles(300, 5)]:
        assert not own_words & set(caption.split())
