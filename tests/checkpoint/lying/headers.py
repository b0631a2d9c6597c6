"""Lies about headers: the same tensors, written differently. A message can hide in each."""

from __future__ import annotations

import json
import random

from lying.raw import (
    Entry,
    Raw,
    compact,
    entry_of,
    header_of,
    read_raw,
    rewrite,
    split_header,
    write_header,
)
from lying.table import (
    PROMPT,
    NotHere,
    Told,
    Words,
    is_written,
    lie,
    some_tensor,
    some_value,
    some_weights,
)


@lie("metadata added", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)

    def change(raw: Raw) -> None:
        raw.metadata = {**(raw.metadata or {}), random.choice(["prompt", "", "author"]): PROMPT}

    rewrite(path, change)
    return (told.shown(path),)


@lie("metadata changed or removed", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    others: list[dict[str, str] | None] = [None, {}, {"format": "tf"}, {"format": "pt "}, {"Format": "pt"}]

    def change(raw: Raw) -> None:
        raw.metadata = random.choice([other for other in others if other != raw.metadata])

    rewrite(path, change)
    return (told.shown(path),)


@lie("a further field in a tensor's entry", is_written)
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: True)

    def change(raw: Raw) -> None:
        raw.extra[entry.name] = {random.choice(["note", "x", "strides"]): random.choice([PROMPT, 1, []])}

    rewrite(path, change)
    return entry.name, told.shown(path)


@lie("the entries' fields in another order", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    header = header_of(read_raw(path))
    name = random.choice([name for name in header if name != "__metadata__"])
    header[name] = dict(reversed(header[name].items()))
    write_header(path, compact(header), split_header(path)[1])
    return (told.shown(path),)


@lie("white space within the header", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    header, data = split_header(path)
    places = [place for place, byte in enumerate(header) if header[place : place + 2] == b',"']
    place = random.choice(places) + 1
    spaces = random.choice([b" ", b"\t", b"\n", b"        "])
    write_header(path, header[:place] + spaces + header[place:], data)
    return (told.shown(path),)


@lie("the header padded further", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    header, data = split_header(path)
    header += b" " * (-len(header) % 8)
    write_header(path, header + b" " * 8 * random.randint(1, 9), data)
    return (told.shown(path),)


@lie("bits written in the header's padding", is_written)
def _(random: random.Random, told: Told) -> Words:
    """A message in tabs and spaces."""
    path = some_weights(random, told)
    header, data = split_header(path)
    padding = bytes(random.choice(b" \t\n\r") for _ in range(8 * random.randint(1, 8) + -len(header) % 8))
    write_header(path, header + padding, data)
    return (told.shown(path),)


@lie("a name written with escapes", is_written)
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: bool(entry.name))
    header, data = split_header(path)
    escaped = f'"\\u{ord(entry.name[0]):04x}{entry.name[1:]}":'
    changed = header.replace(f'"{entry.name}":'.encode(), escaped.encode(), 1)
    write_header(path, changed, data)
    return entry.name, told.shown(path)


@lie("numbers written differently in the header", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    header, data = split_header(path)
    changed = header.replace(
        b'"data_offsets":[0,', random.choice([b'"data_offsets":[-0,', b'"data_offsets":[0 ,'])
    )
    write_header(path, changed, data)
    return (told.shown(path),)


@lie("the header's order changed", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    header = header_of(read_raw(path))
    names = list(header)
    place = random.randrange(len(names) - 1)
    names[place], names[place + 1] = names[place + 1], names[place]
    write_header(path, compact({name: header[name] for name in names}), split_header(path)[1])
    return (told.shown(path),)


@lie("the order of the data changed", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)

    def change(raw: Raw) -> None:
        entry = raw.entries.pop(random.randrange(len(raw.entries)))
        raw.entries.insert(random.randrange(len(raw.entries) + 1), entry)

    rewrite(path, change)
    return (told.shown(path),)


@lie("the offsets of two tensors exchanged")
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    header = header_of(read_raw(path))
    header.pop("__metadata__", None)
    pairs = [
        (one, other)
        for one in header
        for other in header
        if one < other
        and (header[one]["dtype"], header[one]["shape"]) == (header[other]["dtype"], header[other]["shape"])
    ]
    if not pairs:
        raise NotHere
    one, other = random.choice(pairs)
    raw = read_raw(path)
    if raw.entry(one).data == raw.entry(other).data:
        raise NotHere
    whole = header_of(raw)
    offsets = whole[one]["data_offsets"], whole[other]["data_offsets"]
    whole[other]["data_offsets"], whole[one]["data_offsets"] = offsets
    write_header(path, compact(whole), split_header(path)[1])
    return one, other


@lie("a name that stands twice")
def _(random: random.Random, told: Told) -> Words:
    """The original layer behind the patched one's name, or before it."""
    value = some_value(random, told)
    raw = read_raw(value.path)
    own = raw.entry(value.name)
    second = entry_of(value.name, told.original(value, own.dtype))
    place = raw.entries.index(own) + random.choice([0, 1])
    raw.entries.insert(place, Entry("@", own.dtype, own.shape, second.data))
    header = compact(header_of(raw)).replace(b'"@"', f'"{value.name}"'.encode())
    write_header(value.path, header, b"".join(entry.data for entry in raw.entries))
    return value.name, told.shown(value.path)


@lie("a name that stands twice with the same offsets", is_written)
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: bool(entry.name))
    header, data = split_header(path)
    whole = json.loads(header)
    again = f',"{entry.name}":'.encode() + compact(whole[entry.name]) + b"}"
    write_header(path, header[:-1] + again, data)
    return entry.name, told.shown(path)


@lie("metadata that stands twice", is_written)
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    header, data = split_header(path)
    first = b'{"__metadata__":' + compact({"prompt": PROMPT}) + b","
    write_header(path, first + header[1:], data)
    return (told.shown(path),)


@lie("bytes behind the data")
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    with path.open("ab") as file:
        file.write(random.choice([b"\0", PROMPT.encode(), random.randbytes(64)]))
    return (told.shown(path),)


@lie("a tensor's bytes shared by a second name")
def _(random: random.Random, told: Told) -> Words:
    path, entry = some_tensor(random, told, lambda entry: bool(entry.data))
    whole = header_of(read_raw(path))
    whole["alias"] = whole[entry.name]
    write_header(path, compact(whole), split_header(path)[1])
    return "alias", told.shown(path)


@lie("bytes between two tensors")
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    raw = read_raw(path)
    raw.entries.insert(random.randrange(len(raw.entries)), Entry("@", "U8", [8], random.randbytes(8)))
    header = header_of(raw)
    del header["@"]
    write_header(path, compact(header), b"".join(entry.data for entry in raw.entries))
    return (told.shown(path),)


@lie("a file cut short")
def _(random: random.Random, told: Told) -> Words:
    path = some_weights(random, told)
    content = path.read_bytes()
    path.write_bytes(content[: -random.randint(1, 64)])
    return (told.shown(path),)
