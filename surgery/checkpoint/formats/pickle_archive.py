"""The zip archive that a torch pickle is, checked against what torch will make of it before torch sees it.

`torch.load` maps the file and takes a tensor's numbers from where its record starts, compressed or not, and
believes what the archive says of itself. Here the central directory is read first:

1. every record lies within the file, and no two share a byte or a name;
2. a stored record is as long as it says; a compressed one is noted, for torch must then not map the file;
3. all records together unpack to little more than the file holds: a zip bomb is refused unopened;
4. compressed records unpack to exactly what the directory says: where one is broken, torch reads on in
   whatever the memory holds.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from surgery.errors import UsageError

MAX_RECORDS = 100_000  # one per tensor; the largest checkpoints have some thousands
MAX_PROGRAM_BYTES = 16 * 1024 * 1024  # of any record that is no tensor; real ones take up to a megabyte
# Float32 made of half precision shrinks to half its size, a file of zeros to nothing: small ones may.
MAX_EXPANSION = 4
ALWAYS_ALLOWED_BYTES = 16 * 1024 * 1024
ZIP_START = b"PK\x03\x04"
_END_START, _END_BYTES = b"PK\x05\x06", 22
_END64_LOCATOR_START, _END64_LOCATOR_BYTES = b"PK\x06\x07", 20
_END64_START, _END64_BYTES = b"PK\x06\x06", 56
_ENTRY_START, _ENTRY_BYTES = b"PK\x01\x02", 46
_LOCAL_BYTES = 30
_LONGEST_COMMENT = 65535
_STEP = 1024 * 1024
_STORED, _DEFLATED = 0, 8
_UNREADABLE_FLAGS = 1 | 32 | 64  # encrypted, a patch, strongly encrypted
_FOLDER_ATTRIBUTE = 16
_IN_ZIP64_32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Record:
    """One file of the archive; positions and sizes in bytes."""

    header: int
    begin: int
    packed: int
    unpacked: int
    checksum: int
    is_deflated: bool


@dataclass(frozen=True, slots=True)
class Archive:
    """A checked archive: its records by their names without the archive's own folder."""

    records: dict[str, Record]

    @property
    def is_mappable(self) -> bool:
        """Whether the numbers can be read where they lie in the file."""
        return not any(record.is_deflated for record in self.records.values())


def read_archive(file: BinaryIO, shown: str) -> Archive:
    """Read and check the directory of a torch pickle's zip archive.

    Args:
        file: the open file.
        shown: how messages call it.

    Raises:
        UsageError: the archive is broken, overlapping, encrypted, or a bomb.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        entries = _directory(file, size)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError):
        _refuse(shown, "is a broken zip archive")
    records: dict[str, Record] = {}
    folded: set[str] = set()
    archive_name = entries[0][0].partition("/")[0] if entries else ""
    for name, record in entries:
        if name.lower() in folded:  # torch looks names up without regard to case
            _refuse(shown, f"is a zip archive with two records named {name[:100]!r}")
        folded.add(name.lower())
        records[name.removeprefix(f"{archive_name}/")] = record
    if "data.pkl" not in records:
        _refuse(shown, "is a zip archive, but not of a torch pickle")
    _check_places(records, size, shown)
    _check_sizes(records, size, shown)
    for record in records.values():
        if record.is_deflated and not _is_whole(file, record):
            _refuse(shown, "is a broken zip archive")
    return Archive(records)


def read_program(file: BinaryIO, archive: Archive, shown: str) -> bytes:
    """The pickle program of an archive, `data.pkl`.

    Raises:
        UsageError: it cannot be unpacked.
    """
    record = archive.records["data.pkl"]
    program = b"".join(_unpacked(file, record))
    if len(program) != record.unpacked:
        _refuse(shown, "is a broken zip archive")
    return program


def _unpacked(file: BinaryIO, record: Record) -> Iterator[bytes]:
    """The content of a record in pieces, at most one byte more of it than the directory says."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = record.unpacked + 1
    for begin in range(record.begin, record.begin + record.packed, _STEP):
        piece = os.pread(file.fileno(), min(_STEP, record.begin + record.packed - begin), begin)
        while piece and rest > 0:
            data = piece
            if record.is_deflated:
                data = inflate.decompress(piece, min(_STEP, rest))
            piece = inflate.unconsumed_tail if data else b""
            rest -= len(data)
            yield data
    if record.is_deflated and rest > 0:
        yield inflate.flush()  # what the last limit held back, a few hundred bytes


def _is_whole(file: BinaryIO, record: Record) -> bool:
    length = checksum = 0
    try:
        for data in _unpacked(file, record):
            length += len(data)
            checksum = zlib.crc32(data, checksum)
    except zlib.error:
        return False
    return length == record.unpacked and checksum == record.checksum


def _directory(file: BinaryIO, size: int) -> list[tuple[str, Record]]:
    """Every entry of the central directory, in its order; ValueError where it is broken."""
    tail_begin = max(0, size - _LONGEST_COMMENT - _END_BYTES)
    tail = os.pread(file.fileno(), size - tail_begin, tail_begin)
    place = tail.rfind(_END_START, 0, len(tail) - _END_BYTES + len(_END_START))
    if place < 0:
        raise ValueError("no end of directory")
    count, length, begin = struct.unpack_from("<HII", tail, place + 10)
    locator = tail_begin + place - _END64_LOCATOR_BYTES
    if locator >= 0:
        found = os.pread(file.fileno(), _END64_LOCATOR_BYTES, locator)
        if found.startswith(_END64_LOCATOR_START):
            (end64,) = struct.unpack_from("<Q", found, 8)
            end = os.pread(file.fileno(), _END64_BYTES, end64) if end64 < size else b""
            if not end.startswith(_END64_START):
                raise ValueError("no zip64 end of directory")
            count, length, begin = struct.unpack_from("<QQQ", end, 32)
    if count > MAX_RECORDS or begin + length > size or length < count * _ENTRY_BYTES:
        raise ValueError("an impossible directory")
    # no more than 64 KB of name, extra field and comment each; checked before it is read
    if length > MAX_PROGRAM_BYTES + count * 300:
        raise ValueError("a directory out of proportion")
    directory = os.pread(file.fileno(), length, begin)
    entries = []
    position = 0
    for _ in range(count):
        name, record, position = _entry(file, directory, position, size)
        entries.append((name, record))
    return entries


def _entry(file: BinaryIO, directory: bytes, position: int, size: int) -> tuple[str, Record, int]:
    """One entry of the directory, and the position of the next."""
    if directory[position : position + 4] != _ENTRY_START:
        raise ValueError("no entry")
    flags, method = struct.unpack_from("<HH", directory, position + 8)
    checksum, packed, unpacked, name_bytes, extra_bytes, comment_bytes = struct.unpack_from(
        "<IIIHHH", directory, position + 16
    )
    attributes, header = struct.unpack_from("<II", directory, position + 38)
    name_begin = position + _ENTRY_BYTES
    extra_begin = name_begin + name_bytes
    name = directory[name_begin:extra_begin].decode("utf-8" if flags & 0x800 else "cp437")
    wide = _zip64_field(directory[extra_begin : extra_begin + extra_bytes])
    numbers = []
    for number in (unpacked, packed, header):
        if number == _IN_ZIP64_32:
            (number,), wide = struct.unpack_from("<Q", wide), wide[8:]
        numbers.append(number)
    unpacked, packed, header = numbers
    if attributes & _FOLDER_ATTRIBUTE and unpacked:  # torch unpacks nothing then, and takes what memory holds
        raise ValueError("a folder with content")
    if flags & _UNREADABLE_FLAGS or method not in (_STORED, _DEFLATED) or header + _LOCAL_BYTES > size:
        raise ValueError("an entry that torch cannot read")
    local = os.pread(file.fileno(), _LOCAL_BYTES, header)
    if not local.startswith(ZIP_START):
        raise ValueError("no record where the directory says")
    begin = header + _LOCAL_BYTES + sum(struct.unpack_from("<HH", local, 26))
    record = Record(header, begin, packed, unpacked, checksum, method == _DEFLATED)
    return name, record, extra_begin + extra_bytes + comment_bytes


def _zip64_field(extra: bytes) -> bytes:
    """The content of the extra field that holds sizes beyond 32 bits, or nothing."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    return b""


def _check_places(records: dict[str, Record], size: int, shown: str) -> None:
    position = 0
    for record in sorted(records.values(), key=lambda record: record.header):
        if record.header < position:
            _refuse(shown, "is a zip archive whose records overlap")
        position = record.begin + record.packed
        if position > size:
            _refuse(shown, "is a zip archive that is cut short")
        if not record.is_deflated and record.packed != record.unpacked:
            _refuse(shown, "is a broken zip archive")


def _check_sizes(records: dict[str, Record], size: int, shown: str) -> None:
    total = 0
    for name, record in records.items():
        total += record.unpacked
        if not name.startswith("data/") and record.unpacked > MAX_PROGRAM_BYTES:
            _refuse(shown, f"holds a pickle program of {record.unpacked} bytes, more than any checkpoint's")
    if total > MAX_EXPANSION * size + ALWAYS_ALLOWED_BYTES:
        _refuse(shown, f"is an archive of {size} bytes that would unpack to {total}")


def _refuse(shown: str, cause: str) -> NoReturn:
    raise UsageError(shown, cause, "download it again, or get a safetensors file")
