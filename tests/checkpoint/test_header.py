"""The header parser against the safetensors library: the same files read alike, the same refused."""

from __future__ import annotations

import io
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from surgery.checkpoint.formats.safetensors_file import DTYPE_BITS, parse_header, read_header, row_positions
from surgery.errors import UsageError

SIZES = {dtype: bits // 8 for dtype, bits in DTYPE_BITS.items() if bits >= 8}


def packed(header: str | bytes, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw + data


def ours(content: bytes):
    try:
        return parse_header(io.BytesIO(content), len(content), "file")
    except UsageError:
        return None


def theirs(content: bytes):
    try:
        return deserialize(content)
    except SafetensorError:
        return None


def assert_alike(content: bytes) -> None:
    found, expected = ours(content), theirs(content)
    assert (found is None) == (expected is None), content
    if expected is not None:
        assert {
            name: (info["dtype"], tuple(info["shape"]), bytes(info["data"])) for name, info in expected
        } == {
            tensor.name: (tensor.dtype, tensor.shape, content[tensor.begin : tensor.end])
            for tensor in found.tensors.values()
        }


@st.composite
def files(draw):
    """A valid file: names of any text, any dtype, shapes with zeros, metadata, header padding."""
    names = draw(
        st.lists(st.text(max_size=8).filter(lambda name: name != "__metadata__"), unique=True, max_size=5)
    )
    header, data = {}, b""
    for name in names:
        dtype = draw(st.sampled_from(sorted(SIZES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = SIZES[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += draw(st.binary(min_size=size, max_size=size))
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))
    shuffled = dict(draw(st.permutations(list(header.items()))))
    text = json.dumps(shuffled, ensure_ascii=draw(st.booleans())) + " " * draw(st.integers(0, 8))
    return text, data


def is_text(text: str) -> bool:
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)


@settings(max_examples=300, deadline=None)
@given(files())
def test_every_valid_file_is_read_as_the_library_reads_it(file):
    text, data = file
    assert_alike(packed(text, data))


VALUES = [
    "0",
    "1",
    "4",
    "-1",
    "-0",
    "1.0",
    "1e999",
    "18446744073709551616",
    "null",
    "[]",
    "{}",
    '"F32"',
    "NaN",
    "01",
]


@settings(max_examples=600, deadline=None)
@given(files(), st.data())
def test_every_damaged_file_is_judged_as_the_library_judges_it(file, data):
    """One damage per file: a character, a number, the length, the data."""
    text, content = file
    kind = data.draw(st.sampled_from(["character", "number", "length", "cut", "extend", "insert"]))
    if kind == "character" and text:
        place = data.draw(st.integers(0, len(text) - 1))
        text = text[:place] + data.draw(st.characters(codec="utf-8")) + text[place + 1 :]
    elif kind == "number":
        digits = [place for place, letter in enumerate(text) if letter.isdigit()]
        if digits:
            place = data.draw(st.sampled_from(digits))
            text = text[:place] + data.draw(st.sampled_from(VALUES)) + text[place + 1 :]
    elif kind == "insert":
        place = data.draw(st.integers(0, len(text)))
        text = (
            text[:place]
            + data.draw(st.sampled_from([*VALUES, ",", "}", "]", ":", "\\ud800", "\ufeff"]))
            + text[place:]
        )
    whole = bytearray(packed(text, content))
    if kind == "length":
        whole[:8] = struct.pack("<Q", data.draw(st.integers(0, 2 * len(whole))))
    elif kind == "cut":
        del whole[data.draw(st.integers(0, len(whole))) :]
    elif kind == "extend":
        whole += b"x"
    if not repeats_a_name(bytes(whole)):
        assert_alike(bytes(whole))


def repeats_a_name(content: bytes) -> bool:
    """Whether a name stands twice: the one case in which we refuse what the library accepts."""
    repeated = []

    def note(pairs):
        repeated.append(len({key for key, _ in pairs}) != len(pairs))
        return dict(pairs)

    try:
        (length,) = struct.unpack("<Q", content[:8])
        json.loads(content[8 : 8 + length].decode(), object_pairs_hook=note)
    except (ValueError, struct.error):
        return False
    return any(repeated)


ONE = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]%s}}'


@pytest.mark.parametrize(
    "header",
    [
        '{"a":["F32",[1],[0,4]]}',
        '{"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}}',
        ONE % ',"more":[1,{"deep":2}]',
        ONE % (',"more":' + "[" * 125 + "]" * 125),
        ONE % (',"more":' + "[" * 126 + "]" * 126),
        ONE % ',"more":123456789012345678901234567890',
        ONE % ',"more":NaN',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,5]}}',
        '{"a":{"dtype":"F32","shape":[18446744073709551615,2,0],"data_offsets":[0,0]}}',
        '{"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F4","shape":[7],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        '{"a\tb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        "[]",
        "",
    ],
)
def test_odd_headers_are_judged_as_the_library_judges_them(header):
    assert_alike(packed(header, b"1234"))


def test_a_name_that_stands_twice_is_refused_although_the_library_keeps_the_last():
    entry = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    content = packed(f"{{{entry},{entry}}}", b"1234")
    assert theirs(content) is not None
    with pytest.raises(UsageError, match="'a' stands twice"):
        parse_header(io.BytesIO(content), len(content), "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-lfs pointer"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (b"\x80\x02}q\x00." + bytes(40), "pickle"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"GGUF" + bytes(40), "GGUF"),
        (packed(ONE % "", b"12"), "cut short by 2 bytes"),
        (packed(ONE % "", b"12345"), "1 bytes too many"),
        (packed(ONE.replace("F32", "I4") % "", b"1234"), "unknown dtype"),
    ],
)
def test_a_file_that_is_something_else_is_called_by_its_name(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_header(path)


def test_rows_lie_where_the_format_says(tmp_path):
    header = '{"a":{"dtype":"F16","shape":[4,3],"data_offsets":[0,24]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(header, bytes(range(24))))
    tensor = read_header(path).tensors["a"]
    (first, last) = row_positions(tensor, (0, 1, 3))  # neighbors are one range
    assert path.read_bytes()[slice(*first)] == bytes(range(12))
    assert path.read_bytes()[slice(*last)] == bytes(range(18, 24))
