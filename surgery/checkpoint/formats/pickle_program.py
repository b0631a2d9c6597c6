"""Rehearse a pickle program before torch runs it: what would it call, and how much memory would it take?

Torch's restricted interpreter runs nothing dangerous, but does what it is told: make a bytearray of 12 GB,
hash a tuple nested a million times (which crashes the process), copy one list again and again. Here the same
instructions are followed with stand-ins in place of values:

1. every instruction is one that torch's interpreter knows, and there are not too many of them;
2. what is called is in the short list of what checkpoints call, with arguments of the right kind;
3. names in dictionaries are plain: text, small numbers, classes;
4. storages are no larger than their records, and copies made on the way stay small.

What passes is read by `torch.load(weights_only=True)`; nothing of the rehearsal's values is used.
"""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import IO, Any

from surgery.checkpoint.formats.pickle_calls import Calls, Forbidden, known
from surgery.checkpoint.formats.pickle_values import Global, Held, is_name, pairs_with_name

# 33 per tensor: enough for 12,000. SDXL with its EMA twin and its optimizer has 8,000.
MAX_INSTRUCTIONS = 400_000
MAX_HEAVY_INSTRUCTIONS = 150_000  # those that make a dictionary or call something
_HEAVY = frozenset({"EMPTY_DICT", "EMPTY_LIST", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TAKEN_AS_GIVEN = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
)


class Broken(Exception):
    """The program is no pickle that torch reads."""


class Rehearsal:
    """Follows programs, one after another, with one budget.

    Args:
        load_storage: answers a reference to a storage, a tuple, with a `Storage`, or raises `Forbidden`.
    """

    def __init__(self, load_storage: Callable[[tuple[Any, ...]], Any]) -> None:
        self._load_storage = load_storage
        self._calls = Calls()
        self._instructions = 0
        self._heavy = 0

    def follow(self, program: IO[bytes]) -> Any:
        """Follow one program from where the file stands to its end; returns its value's stand-in.

        Raises:
            Forbidden: it does what no checkpoint does.
            Broken: it is no pickle, or torch does not know an instruction of it.
        """
        try:
            return self._follow(program)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise Broken(str(error)[:100]) from None

    def _follow(self, program: IO[bytes]) -> Any:
        stack: list[Any] = []
        outer: list[list[Any]] = []
        memo: dict[int, Any] = {}
        argument: Any
        for instruction, argument, _ in pickletools.genops(program):
            name = instruction.name
            self._instructions += 1
            self._heavy += name in _HEAVY
            if self._instructions > MAX_INSTRUCTIONS or self._heavy > MAX_HEAVY_INSTRUCTIONS:
                raise Forbidden("more objects than any checkpoint")
            if name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in _TAKEN_AS_GIVEN:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "MARK":
                outer.append(stack)
                stack = []
            elif name == "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                length = int(name[-1])
                if len(stack) < length:
                    raise IndexError("an empty stack")
                stack[-length:] = [tuple(stack[-length:])]
            elif name in ("APPENDS", "SETITEMS"):
                items, stack = stack, outer.pop()
                (_append if name == "APPENDS" else _set_items)(stack[-1], items)
            elif name == "APPEND":
                item = stack.pop()
                _append(stack[-1], [item])
            elif name == "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            elif name in ("EMPTY_DICT", "EMPTY_LIST"):
                stack.append(Held("dict" if name == "EMPTY_DICT" else "list"))
            elif name == "EMPTY_SET":
                raise Forbidden("a set")
            elif name == "GLOBAL":
                stack.append(_global(argument))
            elif name == "REDUCE":
                arguments = stack.pop()
                stack[-1] = self._calls.call(stack[-1], arguments)
            elif name == "NEWOBJ":
                arguments = stack.pop()
                stack[-1] = self._calls.new(stack[-1], arguments)
            elif name == "BUILD":
                state = stack.pop()
                self._calls.build(stack[-1], state)
            elif name == "BINPERSID":
                reference = stack.pop()
                if not isinstance(reference, tuple):
                    raise TypeError("no storage")
                stack.append(self._load_storage(reference))
            elif name == "STOP":
                return stack.pop()
            elif name != "PROTO":
                raise ValueError(f"the instruction {name}")
        raise ValueError("no end")


def _global(argument: str) -> Global:
    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:  # names of Python 2, as torch translates them
        module, name = NAME_MAPPING[module, name]
    elif module in IMPORT_MAPPING:
        module = IMPORT_MAPPING[module]
    full_name = f"{module}.{name}"
    if not known(full_name):
        raise Forbidden(full_name, would_run=True)
    return Global(full_name)


def _append(target: Any, items: list[Any]) -> None:
    if not isinstance(target, Held) or target.kind != "list":
        raise TypeError("no list to append to")
    target.length += len(items)
    if target.names is not None and all(map(is_name, items)):
        target.names += items
    else:
        target.names = None
    target.has_pairs = target.has_pairs and all(map(pairs_with_name, items))
    if target.first is None and items and is_name(items[0]):
        target.first = items[0]


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, Held) or target.kind not in ("dict", "ordered", "counter"):
        raise TypeError("no dictionary")
    if not all(map(is_name, items[::2])):
        raise Forbidden("a name that is neither text nor a number")
    target.length += len(items) // 2
