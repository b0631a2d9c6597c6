"""Damage to valid weight files, for fuzzing: used by `test_fuzz` and by `benchmarks/fuzz.py`.

Every kind of file that is read is damaged where it matters: single bytes and numbers anywhere, instructions
and arguments of the pickle program inside its archive (which stays a valid archive, or no damage would reach
the program), the archive's directory, the JSON of a header.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from surgery.checkpoint.formats.opening import open_pickle
from surgery.checkpoint.formats.safetensors_file import Header
from surgery.checkpoint.formats.weights import SafetensorsWeights, Weights
from surgery.errors import UsageError

NUMBERS = (0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# instructions of pickles of protocol 2, and some that torch does not know
OPCODES = b"}](.tNbRQqrhjKMJXcu\x85\x86\x87\x88\x89\x8a)saelG\x81\x80d0123|\x8f\x95"
SNIPPETS = (
    b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x03\x85R",
    b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R",
    b"ctorch\nFloatTensor\n\x8a\x05\x00\x00\x00\x00\x03\x85R",
    b")" + b"\x85" * 2000,
    b"]" + b"(" * 50,
    b"}",
    b"N",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"ccollections\nOrderedDict\n)R",
)
JSON_VALUES = (
    b"0",
    b"-1",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b'"F4"',
    b'"F32"',
    b"18446744073709551616",
    b'"\\ud800"',
)


def tensors() -> dict[str, torch.Tensor]:
    """A few tensors of many layouts and dtypes."""
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    return {
        "plain": base,
        "view": base[1:4, 2:],
        "transposed": base.t(),
        "half": torch.randn(3, 4).half(),
        "steps": torch.arange(24, dtype=torch.int64).reshape(4, 6)[::2, ::3],
        "expanded": torch.arange(3.0).expand(4, 3),
        "negative": torch._neg_view(base),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "truth": torch.tensor([True, False, True]),
        "brain": torch.randn(4).bfloat16(),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }


def seeds() -> dict[str, bytes]:
    """Name -> a valid file: safetensors, and torch pickles of every format."""
    found = {}
    buffer = io.BytesIO()
    torch.save({"state_dict": tensors(), "step": 7, "history": [1, 2.5, "text", (1, 2)]}, buffer)
    found["archive.ckpt"] = buffer.getvalue()
    with zipfile.ZipFile(buffer) as archive:
        content = [(item.filename, archive.read(item)) for item in archive.infolist()]
    found["deflated.ckpt"] = _zipped(content, zipfile.ZIP_DEFLATED)
    big = [(name, b"big" if name.endswith("/byteorder") else data) for name, data in content]
    found["big-endian.ckpt"] = _zipped(big, zipfile.ZIP_STORED)
    buffer = io.BytesIO()
    torch.save(tensors(), buffer, _use_new_zipfile_serialization=False)
    found["old.ckpt"] = buffer.getvalue()
    plain = {name: value.detach().resolve_neg().contiguous() for name, value in tensors().items()}
    found["weights.safetensors"] = save(plain, metadata={"format": "pt"})
    return found


def _zipped(content: list[tuple[str, bytes]], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in content:
            archive.writestr(_dated(name, method), data)
    return buffer.getvalue()


def _dated(name: str, method: int) -> zipfile.ZipInfo:
    """A record of 1980: the same file whenever it is made."""
    record = zipfile.ZipInfo(name)
    record.compress_type = method
    return record


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The file with one or two damages."""
    is_archive = content.startswith(b"PK\x03\x04")
    if is_archive and chance.random() < 0.7:
        return _with_program(content, chance)
    data = content
    for _ in range(chance.randint(1, 2)):
        data = chance.choice(_DAMAGES)(data, chance)
    return data


def _with_program(content: bytes, chance: random.Random) -> bytes:
    """An archive whose program, or whose list of records, is damaged, and which is valid otherwise."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(item.filename, archive.read(item), item.compress_type) for item in archive.infolist()]
    place = next(index for index, (name, _, _) in enumerate(members) if name.endswith("data.pkl"))
    name, program, method = members[place]
    program = chance.choice((_byte, _number, _small_number, _opcode, _insert_snippet, _text))(program, chance)
    members[place] = (name, program, method)
    if chance.random() < 0.1:
        victim = chance.randrange(len(members))
        other, data, _ = members[victim]
        members[victim] = (
            other,
            data[: len(data) // 2],
            chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data, method in members:
            archive.writestr(_dated(name, method), data)
    return buffer.getvalue()


def _byte(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(1, len(data)))
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]


def _opcode(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(1, len(data)))
    keep = place + chance.randint(0, 1)
    return data[:place] + bytes([chance.choice(OPCODES)]) + data[keep:]


def _number(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(1, len(data)))
    number = struct.pack("<I", chance.choice(NUMBERS))[: chance.choice((1, 2, 4))]
    return data[:place] + number + data[place + len(number) :]


def _small_number(data: bytes, chance: random.Random) -> bytes:
    """A number of the program or header, one more or less."""
    place = chance.randrange(max(1, len(data)))
    return (
        data[:place] + bytes([(data[place] + chance.choice((-1, 1))) % 256]) + data[place + 1 :]
        if data
        else data
    )


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _remove(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + data[place + chance.randint(1, 40) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[: place + chance.randint(1, 200)] + data[place:]


def _insert_snippet(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(SNIPPETS) + data[place:]


def _text(data: bytes, chance: random.Random) -> bytes:
    """One letter of a name, the kind of a storage or of a dtype."""
    pairs = (
        (b"Float", b"Half"),
        (b"Half", b"Float"),
        (b"Long", b"Int"),
        (b"cpu", b"xpu"),
        (b"plain", b"pla\xc3\xa9"),
    )
    old, new = chance.choice(pairs)
    return data.replace(old, new, chance.randint(1, 3))


def _json_value(data: bytes, chance: random.Random) -> bytes:
    """A value of the header, whose announced length follows."""
    if len(data) < 8 or not data[8:].startswith(b"{"):
        return _byte(data, chance)
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length]
    digits = [place for place, letter in enumerate(header) if chr(letter).isdigit()]
    if digits:
        place = chance.choice(digits)
        header = header[:place] + chance.choice(JSON_VALUES) + header[place + 1 :]
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _byte,
    _number,
    _small_number,
    _opcode,
    _cut,
    _remove,
    _repeat,
    _insert_snippet,
    _text,
    _json_value,
)


def read(path: Path) -> Weights | None:
    """What surgery reads, every byte of it; None where it refuses. Any other exception is a defect."""
    try:
        weights = (
            SafetensorsWeights(path, path.name)
            if path.suffix == ".safetensors"
            else open_pickle(path, path.name)
        )
    except UsageError as error:
        assert len(str(error)) < 1500, error
        return None
    return weights


def assert_as_library(path: Path, weights: Weights) -> None:
    """The library reads the same names, dtypes, shapes and bytes."""
    expected = _library(path)
    header: Header = weights.header
    assert header.tensors.keys() == expected.keys(), (sorted(header.tensors), sorted(expected))
    for name, tensor in header.tensors.items():
        values = expected[name].detach().resolve_neg().contiguous()
        assert tensor.shape == tuple(values.shape), name
        flat = values.reshape(-1)
        data = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        assert tensor.dtype == _DTYPES.get(str(values.dtype), tensor.dtype), name
        assert weights.read(tensor.begin, tensor.end) == data, name


_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def _library(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dictionary
        except SafetensorError as error:
            raise AssertionError(f"the library refuses what we read: {error}") from error
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    return {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
