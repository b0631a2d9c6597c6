"""What a pickle of tensors may call, with which arguments; everything else is refused before it is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from surgery.checkpoint.formats.pickle_values import Global, Held, Storage

# class names that training frameworks left in checkpoints, as keys of dictionaries or with their fields
INERT_NAMES = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.types.LRSchedulerConfig",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
)
_KNOWN = frozenset(
    {
        *INERT_NAMES,
        "collections.OrderedDict",
        "collections.Counter",
        "builtins.set",
        "builtins.complex",
        "builtins.bytearray",
        "_codecs.encode",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
_MAX_COPIED = 16 * 1024 * 1024  # items and characters that a program may copy from one object to another
_MAX_DIMENSIONS = 64
_NUMBER_DTYPE = re.compile(r"[<>=|]?([?bBhHiIlLqQefd]|[biuf][1248]|b1)")
_PLAIN_DTYPE_STATE = (None, None, None)  # no sub-dtype, no names, no fields
# what torch would make, but has no place among the tensors of a checkpoint
_UNFIT = re.compile(
    r"torch\._utils\._rebuild_\w+|torch(\.\w+)*\.\w*(Tensor|Storage)|torch\.serialization\._get_layout|builtins\.bytearray"
)


class Forbidden(Exception):
    """A program does what no checkpoint's does.

    Args:
        what: what it holds, or the name of what it would run.
        would_run: whether it is a function that is none of torch's.
    """

    def __init__(self, what: str, would_run: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.would_run = would_run


class Calls:
    """Answers calls with stand-ins, and keeps account of what they would copy."""

    def __init__(self) -> None:
        self._copied = 0
        self._functions: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": self._ordered,
            "collections.Counter": self._counter,
            "builtins.set": self._set,
            "builtins.complex": _complex,
            "_codecs.encode": self._encode,
            "torch.Size": self._size,
            "torch.device": _device,
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_tensor_v3": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "numpy.dtype": _dtype,
            "numpy.core.multiarray.scalar": _scalar,
            "numpy._core.multiarray.scalar": _scalar,
        }

    def call(self, function: Any, arguments: Any) -> Any:
        """The stand-in for what `function(*arguments)` returns.

        Raises:
            Forbidden, TypeError, ValueError: no checkpoint calls that, or not so.
        """
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("a call of no function")
        if function.name in INERT_NAMES:
            return self.new(function, arguments)
        if function.name not in self._functions:
            raise _forbidden(function)
        return self._functions[function.name](*arguments)

    def new(self, kind: Any, arguments: Any) -> Any:
        """The stand-in for a new object of a class."""
        if not isinstance(kind, Global) or arguments != ():
            raise Forbidden("an object with arguments")
        if kind.name in INERT_NAMES:
            return Held("stand-in")
        if kind.name == "collections.OrderedDict":
            return Held("ordered")
        raise _forbidden(kind)

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state, where it has a harmless one."""
        kind = target.kind if isinstance(target, Held) else ""
        if kind == "dtype":
            if (
                not isinstance(state, tuple)
                or len(state) != 8
                or state[2:5] != _PLAIN_DTYPE_STATE
                or state[7]
            ):
                raise Forbidden("a dtype of no plain number")
            if not all(part is None or isinstance(part, (int, str)) for part in state):
                raise Forbidden("a dtype of no plain number")
        elif kind in ("ordered", "stand-in"):
            if not isinstance(state, Held) or state.kind != "dict":
                raise Forbidden("an object whose state is no dictionary")
            self._copy(state.length)
        else:
            raise Forbidden("a tensor or an object built piece by piece")

    def _copy(self, length: int) -> None:
        self._copied += length
        if self._copied > _MAX_COPIED:
            raise Forbidden("more copies of one object than any checkpoint")

    def _ordered(self, *items: Any) -> Held:
        if items:
            (pairs,) = items
            if not isinstance(pairs, Held) or pairs.kind != "list" or not pairs.has_pairs:
                raise Forbidden("an ordered dictionary of unusual items")
            self._copy(16 * pairs.length)
        return Held("ordered")

    def _counter(self, *items: Any) -> Held:
        if items:
            (counts,) = items
            if not isinstance(counts, Held) or counts.kind != "dict":
                raise Forbidden("a counter of unusual items")
            self._copy(16 * counts.length)
        return Held("counter")

    def _set(self, items: Any) -> Held:
        if not isinstance(items, Held) or items.kind != "list" or items.names is None:
            raise Forbidden("a set of unusual items")
        self._copy(16 * items.length)
        return Held("other")

    def _encode(self, text: Any, encoding: Any = "utf-8") -> Held:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
            raise Forbidden("text in an unusual encoding")
        self._copy(len(text))
        return Held("other")

    def _size(self, lengths: Any = ()) -> Any:
        _check_lengths(lengths)
        self._copy(len(lengths))
        return lengths

    def _from_type(self, function: Any, kind: Any, arguments: Any, state: Any) -> Held:
        made = self.call(function, arguments)
        if not isinstance(made, Held) or made.kind != "tensor" or not isinstance(kind, Global):
            raise Forbidden("a tensor of an unusual class")
        if kind.name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
            raise Forbidden("a tensor of an unusual class")
        return Held("tensor")


def known(name: str) -> bool:
    """Whether checkpoints name this class or function; torch judges its own names itself."""
    return name in _KNOWN or name.startswith("torch.")


def _forbidden(function: Global) -> Forbidden:
    return Forbidden(function.name, would_run=not _UNFIT.fullmatch(function.name))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Held:
    if not isinstance(storage, Storage) or not isinstance(offset, int):
        raise TypeError("a tensor without a storage")
    _check_lengths(shape)
    _check_lengths(strides)
    return Held("tensor")


def _parameter(tensor: Any, *rest: Any) -> Held:
    if not isinstance(tensor, Held) or tensor.kind != "tensor":
        raise Forbidden("a parameter that is no tensor")
    return Held("tensor")


def _check_lengths(lengths: Any) -> None:
    if not isinstance(lengths, tuple) or len(lengths) > _MAX_DIMENSIONS:
        raise TypeError("no shape")
    if not all(isinstance(length, int) and 0 <= length < 2**63 for length in lengths):
        raise ValueError("no shape")


def _complex(real: Any, imaginary: Any) -> Held:
    if not isinstance(real, (int, float)) or not isinstance(imaginary, (int, float)):
        raise TypeError("no number")
    return Held("other")


def _device(name: Any, index: Any = 0) -> Held:
    if not isinstance(name, str) or len(name) > 100:
        raise TypeError("no device")
    return Held("other")


def _dtype(name: Any, *options: Any) -> Held:
    if not isinstance(name, str) or not _NUMBER_DTYPE.fullmatch(name):
        raise Forbidden("a dtype of no plain number")
    if not all(isinstance(option, int) for option in options):
        raise Forbidden("a dtype of no plain number")
    return Held("dtype")


def _scalar(dtype: Any, content: Any = None) -> Held:
    if not isinstance(dtype, Held) or dtype.kind != "dtype":
        raise Forbidden("a scalar of no plain number")
    return Held("other")
