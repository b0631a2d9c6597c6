"""Corpora as people have them, broken ones included."""

import pytest

from surgery.corpus import read_prompts
from surgery.errors import UsageError
from surgery.ordinary import PACKAGED, ordinary_prompts, packaged_captions

PUBLISHED = """Caption;URL;type;overfit_type
The Great "Show", part; two;http://example.org/a.jpg;VM;x
"A quoted; caption";http://example.org/b.jpg;TM;y
Plain caption;http://example.org/c.jpg;VM;z
"""


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_one_caption_a_line(tmp_path):
    corpus = read_prompts(write(tmp_path, "a.txt", "\ufeffone\n\n two \none\r\nthree"))
    assert corpus.prompts == ["one", "two", "three"]
    assert corpus.counts() == {
        "source": "a.txt", "rows": 5, "prompts": 3, "blank": 1, "repeated": 1, "broken": 0,
    }  # fmt: skip
    assert read_prompts(tmp_path / "a.txt", limit=2).prompts == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,CAPTION\n1,"a, b"\n2,c\n'),
        ("a.csv", 'id;Prompt\n1;"a, b"\n2;c\n'),
        ("a.csv", 'text,id\n"a, b",1\nc,2\n'),
        ("a.tsv", "url\ttext\n-\ta, b\n-\tc\n"),
        ("a.jsonl", '{"caption": "a, b", "text": "no"}\n"c"\n'),
        ("a.jsonl", '{"Prompt": "a, b"}\n{"prompt": "c"}\n'),
    ],
)
def test_the_caption_column_is_found_by_name(tmp_path, name, content):
    assert read_prompts(write(tmp_path, name, content)).prompts == ["a, b", "c"]


def test_another_column_can_be_named(tmp_path):
    path = write(tmp_path, "a.csv", "caption,title\nx,first\ny,second\n")
    assert read_prompts(path, column="Title").prompts == ["first", "second"]
    jsonl = write(tmp_path, "a.jsonl", '{"caption": "x", "title": "first"}\n')
    assert read_prompts(jsonl, column="title").prompts == ["first"]


def test_the_published_semicolon_lists_read_as_they_are(tmp_path):
    corpus = read_prompts(write(tmp_path, "memorized.csv", PUBLISHED))
    assert corpus.prompts == ['The Great "Show", part', "A quoted; caption", "Plain caption"]


def test_a_quoted_caption_may_span_lines(tmp_path):
    corpus = read_prompts(write(tmp_path, "a.csv", 'caption,n\n"two\nlines",1\nshort,2\n'))
    assert corpus.prompts == ["two\nlines", "short"]


def test_broken_rows_are_skipped_and_reported_with_their_line(tmp_path):
    table = read_prompts(write(tmp_path, "a.csv", "id,caption\n1,good\n2\n3,fine\n\n"))
    assert (table.prompts, table.broken, table.blank) == (
        ["good", "fine"],
        [(3, "1 cells, and the caption is cell 2")],
        1,
    )
    lines = read_prompts(
        write(tmp_path, "a.jsonl", '{"caption": "good"}\n{oops\n{"other": 1}\n{"caption": 7}\n\n"end"\n')
    )
    assert lines.prompts == ["good", "end"]
    assert [line for line, _ in lines.broken] == [2, 3, 4]
    assert lines.counts()["broken"] == 3
    many = read_prompts(write(tmp_path, "b.jsonl", "{\n" * 50 + '"x"\n'))
    assert (len(many.broken), many.broken_count) == (20, 50)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"n": [1, 2, 3], "Text": ["a", None, "b"]}), tmp_path / "a.parquet")
    corpus = read_prompts(tmp_path / "a.parquet")
    assert (corpus.prompts, corpus.blank) == (["a", "b"], 1)
    with pytest.raises(UsageError, match="not a readable parquet"):
        read_prompts(write(tmp_path, "b.parquet", "nonsense"))


def test_half_a_million_captions_stream(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"caption {number % 400_000}" for number in range(500_000)))
    corpus = read_prompts(path)
    assert (len(corpus.prompts), corpus.repeated) == (400_000, 100_000)


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.txt", "", "holds no prompt"),
        ("a.txt", "\n \n", r"holds no prompt \(2 rows, 0 broken\)"),
        ("a.csv", "", "no caption, prompt or text column"),
        ("a.csv", "a,b\n1,2\n", r"its header: a, b"),
        ("a.csv", "caption\n", "holds no prompt"),
        ("a.jsonl", "{}\n", r"1 rows, 1 broken"),
        ("a.xml", "<a/>", ".xml is not understood"),
        ("noend", "x", "no suffix is not understood"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path, name, content, cause):
    with pytest.raises(UsageError, match=cause):
        read_prompts(write(tmp_path, name, content))


def test_missing_files_folders_and_columns_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_prompts(tmp_path / "nothing.txt")
    with pytest.raises(UsageError, match="is a folder"):
        read_prompts(tmp_path)
    with pytest.raises(UsageError, match="has no columns"):
        read_prompts(write(tmp_path, "a.txt", "x"), column="caption")
    with pytest.raises(UsageError, match="no column 'title'"):
        read_prompts(write(tmp_path, "a.csv", "caption\nx\n"), column="title")


def test_the_packaged_captions_are_many_varied_and_plain():
    captions = packaged_captions()
    assert len(captions) >= 1000
    assert len(set(captions)) == len(captions)
    assert all(
        caption == caption.strip() and caption.isascii() and len(caption) < 100 for caption in captions
    )
    # Varied: no beginning of four words stands in a tenth of them.
    beginnings = [" ".join(caption.split()[:4]) for caption in captions]
    assert max(map(beginnings.count, set(beginnings))) < 0.1 * len(captions)


def test_a_models_own_captions_come_before_the_packaged_ones(planted, planted_folder, tmp_path):
    captions, source = ordinary_prompts(planted.source)
    assert (len(captions), source) == (80, "ordinary-prompts.txt")
    own = write(tmp_path, "mine.csv", "caption\na\nb\n")
    assert ordinary_prompts(planted.source, own) == (["a", "b"], "mine.csv")
    with pytest.raises(UsageError, match="single caption"):
        ordinary_prompts(planted.source, write(tmp_path, "one.txt", "a"))


def test_other_models_get_the_packaged_captions(planted):
    from surgery.model.pipeline import load_pipeline

    captions, source = ordinary_prompts(load_pipeline(planted.pipeline).source)
    assert (source, len(captions)) == (PACKAGED, len(packaged_captions()))
