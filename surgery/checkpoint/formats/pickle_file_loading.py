"""Read a torch pickle: look at it, rehearse it, and only then have torch load it.

A pickle is a program. It is read with `torch.load(weights_only=True)`, whose interpreter knows tensors and
plain containers only, and never with a torch older than 2.6, whose restricted interpreter could be escaped
(CVE-2025-32434). What checkpoints of the Stable Diffusion era hold besides tensors (numpy scalars, class
names of the training framework) is answered by inert stand-ins; anything else is refused before it runs.

1. The first bytes say whether it is an archive (torch 1.6 and later), the older format, or something else.
2. An archive's directory is checked (`pickle_archive`), the programs are rehearsed (`pickle_program`).
3. torch loads it: mapped where every record is stored as it is, into memory where records are compressed or
   the format is the older one. No torch is imported for a file that steps 1 and 2 refuse.
"""

from __future__ import annotations

import gc
import io
import os
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from surgery.checkpoint.formats.impostors import SIGNATURE_BYTES, refuse_not_pickle
from surgery.checkpoint.formats.pickle_archive import (
    MAX_PROGRAM_BYTES,
    ZIP_START,
    Archive,
    read_archive,
    read_program,
)
from surgery.checkpoint.formats.pickle_calls import INERT_NAMES, Forbidden
from surgery.checkpoint.formats.pickle_program import Broken, Rehearsal
from surgery.checkpoint.formats.pickle_values import Global, Held, Storage, is_name
from surgery.checkpoint.formats.regular_file import open_regular
from surgery.errors import UsageError

LEAST_TORCH = (2, 6)
# the older format is a row of pickles, of which the first is this number
_OLD_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OLD_PROGRAMS = 5  # that number, a version, facts on the machine, the document, the names of the storages
_TAR_BLOCK = 512
_GET_SAFETENSORS = "get a safetensors file"
_ELEMENT_BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "Untyped": 1,
}


class InertStandIn:
    """Stands for a class of a training framework that a checkpoint merely names."""


def load_pickle(path: Path, shown: str) -> Any:
    """What a torch pickle holds, its tensors on the CPU.

    Args:
        path: the file.
        shown: how messages call it.

    Raises:
        UsageError: it is something else, it could run code or fill the memory, or torch is too old.
    """
    with _collector_paused(), open_regular(path, shown) as file:
        start = os.pread(file.fileno(), SIGNATURE_BYTES, 0)
        refuse_not_pickle(shown, start)
        is_mappable = False
        try:
            if start.startswith(ZIP_START):
                archive = read_archive(file, shown)
                is_mappable = archive.is_mappable
                program = io.BytesIO(read_program(file, archive, shown))
                Rehearsal(_records_of(archive, shown)).follow(program)
            else:
                _rehearse_old_format(file, start, shown)
        except Forbidden as error:
            _refuse_forbidden(shown, error)
        except Broken:
            _refuse_unreadable(shown)
        return _load(path, shown, is_mappable)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without Python's search for cycles, which takes half the time where a program makes many objects."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _records_of(archive: Archive, shown: str) -> Any:
    def load_storage(reference: tuple[Any, ...]) -> Storage:
        tag, kind, key, _, count = reference
        needed = _storage_bytes(tag, kind, count)
        record = archive.records.get(f"data/{key}") if isinstance(key, str) else None
        if record is None or record.unpacked != needed:
            held = 0 if record is None else record.unpacked
            _refuse(shown, f"its archive holds {held} bytes where a tensor needs {needed}")
        return Storage(needed)

    return load_storage


def _rehearse_old_format(file: BinaryIO, start: bytes, shown: str) -> None:
    """Follow the programs of a file of torch before 1.6, whose storages are a row of numbers behind them."""
    size = os.fstat(file.fileno()).st_size
    if not start.startswith(b"\x80"):
        _refuse_unreadable(shown)
    total = 0
    seen: set[Any] = set()

    def load_storage(reference: tuple[Any, ...]) -> Storage:
        nonlocal total
        tag, kind, key, _, count, view = reference
        if not is_name(key) or (view is not None and not (len(view) == 3 and all(map(is_name, view)))):
            raise TypeError("no storage")
        needed = _storage_bytes(tag, kind, count)
        if key not in seen:
            seen.add(key)
            total += needed
        if total > size:
            _refuse(shown, f"is cut short: {total} bytes of numbers in a file of {size}")
        return Storage(needed)

    rehearsal = Rehearsal(load_storage)
    programs = io.BytesIO(os.pread(file.fileno(), MAX_PROGRAM_BYTES, 0))
    if not start.startswith(_OLD_START):
        rehearsal.follow(programs)  # a plain pickle: if it would run anything, it is worth saying so
        _refuse_unreadable(shown)
    if _is_tar(programs.getvalue()[:_TAR_BLOCK]):  # torch would look for its very first format in it
        _refuse_unreadable(shown)
    results = [rehearsal.follow(programs) for _ in range(_OLD_PROGRAMS)]
    # The last one names the storages whose numbers follow. Torch looks each name up in a dictionary, and a
    # storage that is not named holds whatever was in the memory before.
    names = results[-1].names if isinstance(results[-1], Held) and results[-1].kind == "list" else None
    if names is None or len(names) != len(seen) or set(names) != seen:
        _refuse_unreadable(shown)


def _storage_bytes(tag: Any, kind: Any, count: Any) -> int:
    if tag != "storage" or not isinstance(kind, Global) or not isinstance(count, int) or count < 0:
        raise TypeError("no storage")
    name = kind.name.rpartition(".")[2].removesuffix("Storage")
    if name not in _ELEMENT_BYTES:
        raise Forbidden(kind.name)
    return count * _ELEMENT_BYTES[name]


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _load(path: Path, shown: str, is_mappable: bool) -> Any:
    import numpy
    import torch

    version = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in torch.__version__.split(".")[:2])
    if version < LEAST_TORCH:
        raise UsageError(
            shown, f"is a pickle, and torch {torch.__version__} reads pickles unsafely", "use torch 2.6"
        )
    stand_ins: list[Any] = [(InertStandIn, name) for name in INERT_NAMES]
    numbers: list[Any] = [
        (_numpy_scalar(), "numpy.core.multiarray.scalar"),  # where numpy 1 had it
        _numpy_scalar(),
        numpy.dtype,
        *(type(numpy.dtype(code)) for code in "?bBhHiIlLefd"),
    ]
    with torch.serialization.safe_globals([*stand_ins, *numbers]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on pickle protocols
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
        except Exception as error:
            raise _refusal(shown, error) from None


def _numpy_scalar() -> Any:
    """The function that pickled numpy scalars name; it makes a number of a dtype and bytes."""
    import numpy

    return numpy.float64(0.0).__reduce__()[0]


def _refusal(shown: str, error: Exception) -> UsageError:
    text = str(error)
    if "GLOBAL " in text:
        return _would_run(shown, text.partition("GLOBAL ")[2].split(" ")[0])
    if "Unsupported" in text:
        return UsageError(shown, "is a pickle that could run code; nothing of it was run", _GET_SAFETENSORS)
    return UsageError(
        shown, "is not a torch pickle that can be read", f"download it again, or {_GET_SAFETENSORS}"
    )


def _would_run(shown: str, name: str) -> UsageError:
    cause = f"is a pickle that would run code when read ({name[:100]}); nothing of it was run"
    return UsageError(shown, cause, _GET_SAFETENSORS)


def _refuse_forbidden(shown: str, error: Forbidden) -> NoReturn:
    if error.would_run:
        raise _would_run(shown, error.what) from None
    cause = f"is a pickle of a kind that is not read: it holds {error.what[:100]}"
    raise UsageError(shown, cause, f"save plain tensors only, or {_GET_SAFETENSORS}") from None


def _refuse_unreadable(shown: str) -> NoReturn:
    _refuse(shown, "is not a torch pickle that can be read")


def _refuse(shown: str, cause: str) -> NoReturn:
    raise UsageError(shown, cause, f"download it again, or {_GET_SAFETENSORS}") from None
